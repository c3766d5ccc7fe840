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
from adaptrt.models.data import DataSplits, Split
from adaptrt.models.folder import LoadedModel
from adaptrt.models.phase import Progress
from adaptrt.models.recipe import Recipe
from adaptrt.models.vit import ViT

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
        steps_per_epoch: Steps that make an epoch.
    """

    FILE = "epochs.jsonl"

    def __init__(self, folder: Path, steps_per_epoch: int) -> None:
        self._path, self._steps = folder / self.FILE, steps_per_epoch
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
        if progress.step % self._steps:
            return
        now = time.monotonic()
        epoch = Epoch(
            phase=progress.phase,
            epoch=progress.step // self._steps,
            epochs=progress.steps // self._steps,
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
        found = []
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
            found.append(entry)
        return found


def _decode(line: bytes) -> Epoch | None:
    try:
        return msgspec.convert(json.loads(line), Epoch)
    except (ValueError, RecursionError):  # not JSON, not text, or JSON of something else
        return None


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in AMX tiles."""
    try:
        return bool(torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # a private function; another torch may not have it
        pass
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def describe_run(recipe: Recipe, data: DataSplits) -> dict[str, Any]:
    """Recipe, data and machine."""
    splits = {"train": data.train, "calibration": data.calibration, "test": data.test}
    return {
        "adaptrt": adaptrt.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": recipe.precision,
        "recipe": dataclasses.asdict(recipe),
        "data": {"name": data.name} | {part: len(split) for part, split in splits.items() if split is not None},
    }


def evaluate(saved: LoadedModel, data: DataSplits) -> dict[str, Any]:
    """Accuracy and share of work of a saved model, dense and at prices from everything to nothing."""
    splits = {"calibration": data.calibration, "test": data.test}
    low, high = saved.model.price_limits()
    adaptive = [
        {
            "price": round(float(price), 6),
            **{part: _measure(saved.model, split, price) for part, split in splits.items()},
        }
        for price in np.linspace(low, high, _PRICES)
    ]
    dense = {}
    if saved.dense is not None:
        dense = {part: _measure(saved.dense, split, None) for part, split in splits.items()}
    return {"dense": dense, "adaptive": adaptive}


@torch.no_grad()
def _measure(model: ViT, split: Split, price: float | None) -> dict[str, float]:
    fed = None if price is None else torch.tensor([price], dtype=torch.float32)
    correct, work = 0, 0.0
    for start in range(0, len(split), _BATCH):
        rows = slice(start, start + _BATCH)
        out = model(torch.from_numpy(split.inputs[rows]), fed)
        correct += int((out.logits.argmax(1) == torch.from_numpy(split.labels[rows])).sum())
        work += float(out.macs_fraction.sum(dtype=torch.float64))
    measured = {"accuracy": round(correct / len(split), 6)}
    if price is not None:
        measured["macs_fraction"] = round(work / len(split), 6)
    return measured


def encode_log(log: dict[str, Any]) -> bytes:
    """Indented JSON, with lists of plain values on one line each; a loss that is not finite is null."""
    text = json.dumps(plain(log), indent=2, allow_nan=False)
    flat = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    return (flat + "\n").encode()
