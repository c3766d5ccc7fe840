"""A bundle of all families whose network is a few lines of numpy: more work makes hard samples right."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from adaptrt.models.data.split import DataSplits, Split
from adaptrt.runtime.bundle.bundle_file import FORMAT_VERSION, Axis, Bundle, Carry, Dense, Knob, Stage, TensorSpec

TOKENS, LEARNERS, CLASSES, GATES = 6, 2, 3, 2
FULL = TOKENS * LEARNERS

PRICE = Knob("price", "float32", [1], 0.0, 4.0, 0.0)
TOKEN_PRICE = Knob("token_price", "float32", [1], -1.0, 4.0, -1.0)
CAPACITY = Knob("capacity", "int32", [GATES], -1, FULL, -1)
KEEP = Knob("keep", "int32", [1], -1, TOKENS, -1)
EXITS = Knob("exit_thresholds", "float32", [1], -np.inf, np.inf, np.inf)
_CARRIED = [Carry("hidden", "next_hidden", "float32", ["batch", 2])]
ALL = (PRICE, TOKEN_PRICE, CAPACITY, KEEP, EXITS)


def fake_data(samples: int = 200, seed: int = 0) -> DataSplits:
    """Inputs [n, 3]: how hard a sample is, what all its other properties follow from, and its class."""
    generator = np.random.default_rng(seed)

    def split() -> Split:
        labels = generator.integers(0, CLASSES, samples)
        inputs = np.stack([generator.random(samples), generator.random(samples), labels], 1)
        return Split(inputs.astype(np.float32), labels)

    return DataSplits("fake", calibration=split(), test=split())


class FakeModel:
    """Two stages with a gate each; before the first gate tokens are selected."""

    def __init__(self, *knobs: Knob, stop_after: int | None = None, uneven: float = 0.0) -> None:
        stages = 2 if EXITS in knobs else 1
        self.bundle = Bundle(
            format_version=FORMAT_VERSION,
            axes={"batch": Axis(0)},
            name="fake",
            producer="tests",
            inputs=[TensorSpec("x", "float32", ["batch", 3])],
            outputs=[
                TensorSpec("logits", "float32", ["batch", CLASSES]),
                TensorSpec("macs_fraction", "float32", ["batch"]),
            ],
            stages=[
                Stage(f"stage{number}.onnx", f"{number}" * 64, exit=f"head_{number}", carry=_CARRIED[:number])
                for number in range(stages)
            ],
            knobs=list(knobs),
            dense=Dense(1000, 10),
            exit_criterion="max_softmax" if stages > 1 else None,
        )
        self.samples = 0
        self.stop_after, self._uneven = stop_after, uneven

    def run(self, inputs: Mapping[str, Any], *, knobs: Any = None, decisions: bool = False) -> Any:
        assert "exit_thresholds" not in (knobs or {})
        stages, made = self._stages(inputs["x"], knobs)
        last = stages[-1]
        return SimpleNamespace(
            outputs={"logits": last["logits"]},
            macs_fraction=last["macs_fraction"],
            decisions=made if decisions else None,
        )

    def run_stages(self, inputs: Mapping[str, Any], *, knobs: Any = None) -> list[dict[str, Any]]:
        stages = self._stages(inputs["x"], knobs)[0]
        if len(stages) == 1:
            del stages[0]["confidence"]
        return stages

    def _stages(self, x: Any, knobs: Any) -> tuple[list[dict[str, Any]], Any]:
        if self.stop_after is not None and self.samples >= self.stop_after:
            raise KeyboardInterrupt
        self.samples += len(x)
        values = {knob.name: knob.default for knob in self.bundle.knobs} | dict(knobs or {})
        assert values.keys() == {knob.name for knob in self.bundle.knobs}, "a knob that the bundle does not have"
        price, token_price = values.get("price", 0.0), values.get("token_price", -1.0)
        token_price = price if token_price < 0 else token_price
        if TOKEN_PRICE not in self.bundle.knobs:
            token_price = 0.0
        keep = np.atleast_1d(values.get("keep", -1))[0]
        capacity = np.broadcast_to(values.get("capacity", -1), GATES)
        stay = _kept(x, token_price, keep)
        stages, learners = [], []
        spent = np.full(len(x), 0.05) + self._uneven * x[:, 0]
        ability = stay.mean(1) * 0.6
        for gate in range(GATES):
            runs = _running(x, gate, price, capacity[gate], stay)
            learners.append(runs.sum(2))
            spent = spent + 0.05 + 0.15 * stay.mean(1) + 0.25 * runs.mean((1, 2))
            weight = np.array([1.0, 0.4])
            ability = ability + (0.3, 0.5)[gate] * (runs * weight).sum((1, 2)) / (TOKENS * weight.sum()) + 0.1
            if len(self.bundle.stages) == 2 or gate == GATES - 1:
                noise = 0.5 * _hash(x, 50 + gate)
                margin = 1.3 * ability - x[:, 0] - noise
                stages.append(_head(margin, x[:, 2].astype(int), spent))
        made = SimpleNamespace(learners=np.stack(learners, 1).astype(np.int32), kept=stay[:, None])
        return stages, made


def _head(margin: Any, label: Any, spent: Any) -> dict[str, Any]:
    rows = np.arange(len(margin))
    logits = np.full((len(margin), CLASSES), -3.0, np.float32)
    logits[rows, (label + 1) % CLASSES] = 0.0
    logits[rows, label] = 6.0 * margin
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    confidence = exponentials.max(1) / exponentials.sum(1)
    return {"logits": logits, "macs_fraction": spent.astype(np.float32), "confidence": confidence.astype(np.float32)}


def _hash(x: Any, *numbers: int) -> Any:
    """A number in 0..1 per sample."""
    mixed = np.sin(x[:, 1].astype(np.float64) * 12.9898 + sum(n * (78.233 + i) for i, n in enumerate(numbers))) * 4375.5
    return mixed - np.floor(mixed)


def _kept(x: Any, price: float, keep: float) -> Any:
    gain = np.stack([_hash(x, 7, token) * 2.0 + 1e-6 for token in range(TOKENS)], 1)
    gain[:, 0] = 1e6  # the class token
    if keep < 0:
        return gain > price
    return np.argsort(np.argsort(-gain, 1), 1) < keep


def _running(x: Any, gate: int, price: float, capacity: float, stay: Any) -> Any:
    gain = np.stack([_hash(x, gate, token) for token in range(TOKENS)], 1)[:, :, None] * np.array([3.0, 1.0]) + 1e-6
    gain = gain * (1.0, 0.5)[gate] * stay[:, :, None]
    if capacity < 0:
        return gain > price
    ranked = np.argsort(np.argsort(-gain.reshape(len(x), -1), 1, kind="stable"), 1)
    return (ranked.reshape(gain.shape) < capacity) & stay[:, :, None]
