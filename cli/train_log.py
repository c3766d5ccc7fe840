"""What ``adaptrt train`` records: losses by epoch, the machine, and what the saved model reaches."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

import adaptrt
from adaptrt.cli.output import note, plain
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.folder import LoadedModel
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.models.training.phase import Progress
from adaptrt.models.training.recipe import Recipe

_PRICES = 11
_BATCH = 256


class Epoch(msgspec.Struct, frozen=True):
    """A finished epoch: number ``epoch`` of ``epochs`` of its phase, and the seconds that it took."""

    phase: str
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    seconds: float


class EpochHistory:
    """Losses of every finished epoch, kept in a file beside the checkpoints, so that they outlive a restart.

    Lines that cannot be read, such as one torn because the process was killed while it wrote, are
    ignored with a note: training needs none of them.

    Args:
        folder: Of the checkpoints.
    """

    FILE = "epochs.jsonl"

    def __init__(self, folder: Path) -> None:
        self._path = folder / self.FILE
        self._began = time.monotonic()
        content = self._path.read_bytes() if self._path.is_file() else b""
        self._line_start = "" if content.endswith(b"\n") or not content else "\n"
        read = [_decode(line) for line in content.splitlines()]
        self._epochs = {(epoch.phase, epoch.epoch): epoch for epoch in read if epoch is not None}
        if unreadable := read.count(None):
            note(f"note: {unreadable} unreadable {'line' if unreadable == 1 else 'lines'} in {self._path} ignored")

    def record(self, progress: Progress) -> None:
        """Take note of a step; what ends an epoch is written down.

        Raises:
            OSError: The file cannot be written.
        """
        steps = progress.steps // progress.epochs
        if progress.step % steps:
            return
        now = time.monotonic()
        epoch = Epoch(
            phase=progress.phase,
            epoch=progress.step // steps,
            epochs=progress.epochs,
            loss=round(progress.loss, 5),
            accuracy=None if progress.accuracy is None else round(progress.accuracy, 5),
            seconds=round(now - self._began, 3),
        )
        self._began = now
        self._epochs[epoch.phase, epoch.epoch] = epoch
        with self._path.open("a") as file:
            file.write(self._line_start + json.dumps(msgspec.structs.asdict(epoch)) + "\n")
        self._line_start = ""

    def phases(self) -> list[dict[str, Any]]:
        """Every phase with its seconds, and the loss and training accuracy of its epochs."""
        phases = []
        for name in dict.fromkeys(phase for phase, _ in self._epochs):
            epochs = [self._epochs[key] for key in sorted(self._epochs) if key[0] == name]
            entry: dict[str, Any] = {
                "phase": name,
                "seconds": round(sum(epoch.seconds for epoch in epochs), 2),
                "epoch": [epoch.epoch for epoch in epochs],
                "loss": [epoch.loss for epoch in epochs],
            }
            if epochs[-1].accuracy is not None:
                entry["accuracy"] = [epoch.accuracy for epoch in epochs]
            phases.append(entry)
        return phases


def _decode(line: bytes) -> Epoch | None:
    try:
        return msgspec.convert(json.loads(line), Epoch)
    except (ValueError, RecursionError):  # not JSON, not text, or JSON of something else
        return None


def describe_run(recipe: Recipe, data: DataSplits, speedup: float | None) -> dict[str, Any]:
    """Recipe, data and machine; ``speedup`` is bfloat16's over float32, None where it was not measured."""
    splits = {"train": data.train, "calibration": data.calibration, "test": data.test}
    return {
        "adaptrt": adaptrt.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
        "bfloat16_speedup": speedup,
        "recipe": dataclasses.asdict(recipe),
        "data": {"name": data.name} | {part: len(split) for part, split in splits.items() if split is not None},
    }


def evaluate(saved: LoadedModel, data: DataSplits) -> dict[str, Any]:
    """Accuracy and share of work of a saved model, dense and at prices from everything to nothing.

    Nobody leaves early. A model without a price is measured once.
    """
    splits = {"calibration": data.calibration, "test": data.test}
    scale = next((spec for spec in saved.model.knob_specs() if spec.name == "price"), None)
    adaptive: list[dict[str, Any]] = []
    for price in [None] if scale is None else np.linspace(scale.minimum, scale.maximum, _PRICES):
        row = {} if price is None else {"price": round(float(price), 6)}
        adaptive.append({**row, **{part: _measure(saved.model, split, price) for part, split in splits.items()}})
    dense = {}
    if saved.dense is not None:
        for part, split in splits.items():
            dense[part] = {"accuracy": _measure(saved.dense, split, None)["accuracy"]}
    return {"dense": dense, "adaptive": adaptive}


@torch.no_grad()
def _measure(model: StagedNetwork, split: Split, price: float | None) -> dict[str, float]:
    knobs = {} if price is None else {"price": torch.tensor([price], dtype=torch.float32)}
    (given,) = model.input_specs()
    correct, work = 0, 0.0
    for start in range(0, len(split), _BATCH):
        rows = slice(start, start + _BATCH)
        out = model.run_stages({given.name: torch.from_numpy(split.inputs[rows])}, knobs)[-1]
        correct += int((out.logits.argmax(1) == torch.from_numpy(split.labels[rows])).sum())
        work += float(out.macs_fraction.sum(dtype=torch.float64))
    return {"accuracy": round(correct / len(split), 6), "macs_fraction": round(work / len(split), 6)}


def encode_log(log: dict[str, Any]) -> bytes:
    """Indented JSON, with lists of plain values on one line each; a loss that is not finite is null."""
    text = json.dumps(plain(log), indent=2, allow_nan=False)
    flat = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: "[" + " ".join(match[1].split()) + "]", text)
    return (flat + "\n").encode()
