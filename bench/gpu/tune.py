"""Times of the candidate configurations of the two GEMMs on the device at hand.

``make gpu-check TUNE=1``; the best ones belong in ``plugins_trt/kernels/configurations.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from adaptrt.bench.gpu.time import Call, MLPShape, Timer, draw_decisions, draw_weights
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import CONDITIONAL_MLP_DOWN, CONDITIONAL_MLP_ORDER, CONDITIONAL_MLP_UP
from adaptrt.plugins_trt.kernels.configurations import Configuration


def tune(
    shape: MLPShape,
    tokens: Sequence[int],
    shares: Sequence[float],
    timer: Timer,
    device: str,
    candidates: dict[str, tuple[Configuration, ...]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Time each half alone in every candidate that the device can hold, float16; the fastest first."""
    weights = draw_weights(shape, torch.float16, device)
    for number in tokens:
        x = torch.randn(number, shape.width, device=device, dtype=torch.float16)
        for share in shares:
            k = draw_decisions(shape, number, share, device)
            order, running = torch.empty_like(k), k.new_empty(shape.learners)
            launch.launch(CONDITIONAL_MLP_ORDER, {"k": k, "order": order, "running": running})
            hidden = x.new_zeros(number, shape.learners * shape.hidden)
            ordered = {"order": order, "running": running}
            up = {"x": x, **ordered, "w1": weights["w1"], "b1": weights["b1"], "hidden": hidden}
            down = {"hidden": hidden, **ordered, "w2": weights["w2"], "b2": weights["b2"], "y": torch.empty_like(x)}
            for record, tensors in ((CONDITIONAL_MLP_UP, up), (CONDITIONAL_MLP_DOWN, down)):
                calls: dict[str, Call] = {}
                for choice in (candidates or {}).get(record.op, record.layout.configurations.candidates):

                    def call(record: Any = record, tensors: Any = tensors, choice: Configuration = choice) -> None:
                        launch.launch(record, tensors, choose=lambda *_: choice)

                    if _fits(call):
                        calls[choice.name] = call
                times = {name: statistics.median(runs) for name, runs in timer(calls).items()}
                best = dict(sorted(times.items(), key=lambda entry: entry[1]))
                yield {"op": record.op, "tokens": number, "share": share, "ms": best}


def _fits(call: Call) -> bool:
    """Whether the device has the shared memory for it."""
    from triton.runtime.errors import OutOfResources

    try:
        call()
    except OutOfResources:
        return False
    return True
