"""What each network gives at some of its settings: accuracy on test images, and its share of the dense work."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from adaptrt import write_atomically
from adaptrt.bench.families.networks import FamilyNetwork, keep_settings
from adaptrt.bench.timing.chosen_points import choose_points
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import Split
from adaptrt.models.network import Network
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import KnobValue, read_bundle

_BATCH = 64
_FILE = "points.json"


@dataclass(frozen=True)
class NetworkPoint:
    """A network at one setting.

    Attributes:
        knobs: What was fed; knobs not named stood at their defaults.
        macs_fraction: Mean multiply-accumulates on test images over those of the dense network that all
            are compared with.
        accuracy: On test images.
    """

    knobs: dict[str, KnobValue]
    macs_fraction: float
    accuracy: float


def dense_macs(config: ViTConfig) -> int:
    """Multiply-accumulates of a dense network for one image."""
    return Network.from_config(config).dense_macs()


def network_points(
    network: FamilyNetwork, test: Split, *, count: int, base: ViTConfig, progress: Callable[[str, float], None]
) -> list[NetworkPoint]:
    """Settings of a network, spread over its work, each measured on test images.

    Those with a curve: what the runtime solves budgets to. Static ones: ``keep_settings``. What was
    measured before is kept in the network's folder and not measured again.

    Args:
        network: Exported.
        test: Images that nothing was trained on or tuned with.
        count: Settings, about; at least 2.
        base: The dense network that all are compared with.
        progress: Told how far it is.

    Raises:
        BenchError: Its curve is missing.
    """
    share = 1 / dense_macs(base)
    if not network.recipe.adapts:
        accuracy = _known(network, {}, test, lambda: (1.0, _dense_accuracy(network.file, test)))[1]
        return [NetworkPoint({}, dense_macs(network.recipe.vit) * share, accuracy)]
    bundle = read_bundle(network.file, verify_hashes=False)
    scale = bundle.dense.macs * share
    if network.static:
        settings = keep_settings(network, network.recipe.vit.tokens, count)
        measured: list[tuple[dict[str, KnobValue], tuple[float, float] | None]] = [
            (setting, None) for setting in settings
        ]
    else:
        measured = [
            (p.knobs, (p.macs_fraction, p.quality) if p.calibrated and p.quality is not None else None)
            for p in choose_points(bundle, count)
        ]
    points = []
    for index, (knobs, known) in enumerate(measured):
        progress(f"{network.name}: accuracy", index / len(measured))
        if known is None:
            known = _known(network, knobs, test, partial(_measure, network.file, knobs, test))
        points.append(NetworkPoint(knobs, known[0] * scale, known[1]))
    return points


def _dense_accuracy(file: Path, test: Split) -> float:
    """Accuracy of an ONNX file whose only input is the images."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name, correct = session.get_inputs()[0].name, 0
    for start in range(0, len(test), _BATCH):
        rows = slice(start, start + _BATCH)
        (logits,) = session.run(["logits"], {name: test.inputs[rows]})
        correct += int((np.asarray(logits).argmax(1) == test.labels[rows]).sum())
    return correct / len(test)


def _measure(folder: Path, knobs: dict[str, KnobValue], test: Split) -> tuple[float, float]:
    """Mean share of the work and accuracy of a bundle on test images."""
    model = load(folder)
    name, spent, correct = model.bundle.inputs[0].name, 0.0, 0
    for start in range(0, len(test), _BATCH):
        rows = slice(start, start + _BATCH)
        result = model.run({name: test.inputs[rows]}, knobs=knobs)
        spent += float(result.macs_fraction.sum(dtype=np.float64))
        correct += int((result.outputs["logits"].argmax(1) == test.labels[rows]).sum())
    return spent / len(test), correct / len(test)


def _known(
    network: FamilyNetwork, knobs: dict[str, KnobValue], test: Split, measure: Callable[[], tuple[float, float]]
) -> tuple[float, float]:
    """What was measured of these files, knobs and images, or what is measured now and kept."""
    path = network.folder / _FILE
    files = sorted(network.file.glob("*.onnx")) if network.file.is_dir() else [network.file]
    digest = hashlib.sha256(test.labels.tobytes())
    for file in files:
        digest.update(file.read_bytes())
    key = f"{digest.hexdigest()} {json.dumps(knobs, sort_keys=True)}"
    kept: dict[str, tuple[float, float]] = json.loads(path.read_text()) if path.is_file() else {}
    if key not in kept:
        kept[key] = measure()
        write_atomically(path, json.dumps(kept, indent=1).encode())
    return kept[key][0], kept[key][1]
