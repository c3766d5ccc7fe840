"""Times of the candidate configurations of the GEMMs on the device at hand.

``make gpu-check TUNE=1``; the best ones belong in ``plugins_trt/kernels/configurations.py``.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from adaptrt.bench.gpu.reference import LEARNER_OPS
from adaptrt.bench.gpu.time import Call, MLPShape, Timer, draw_decisions, draw_weights
from adaptrt.ops import OpRecord
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import KERNEL_RECORDS, OUTPUT, SIZE, KernelRecord, axes_sizes
from adaptrt.plugins_trt.kernels.configurations import Configuration


def tuned_kernels() -> dict[str, tuple[OpRecord, tuple[KernelRecord, ...]]]:
    """The kernels with candidates, one of each kernel file, by the op that they are timed in.

    Returns:
        By the op's name, its record and those of its kernels that no op before it has.
    """
    tuned: dict[str, tuple[OpRecord, tuple[KernelRecord, ...]]] = {}
    files: set[str] = set()
    for op in LEARNER_OPS:
        kernels = [KERNEL_RECORDS[part.name] for part in op.parts]
        new = tuple(one for one in kernels if one.layout.configurations.candidates and one.entry not in files)
        if new:
            tuned[op.name] = op, new
        files |= {one.entry for one in new}
    return tuned


def tune(
    shape: MLPShape,
    tokens: Sequence[int],
    shares: Sequence[float],
    timer: Timer,
    device: str,
    candidates: Mapping[str, tuple[Configuration, ...]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Time each kernel alone in every candidate that the device can hold, float16; the fastest first.

    Args:
        shape: Of the learners.
        tokens: Numbers of tokens.
        shares: Of the learners that tokens run.
        timer: Takes the times.
        device: Where tensors are.
        candidates: By the name of a kernel's part; others have those of the table.
    """
    for number in tokens:
        x = torch.randn(number, shape.width, device=device, dtype=torch.float16)
        for share in shares:
            k = draw_decisions(shape, number, share, device)
            for op, tuned in tuned_kernels().values():
                tensors = {"x": x, "k": k, **draw_weights(shape, torch.float16, device, op)}
                for record in (KERNEL_RECORDS[part.name] for part in op.parts):
                    taken = _arguments(record, tensors, {**shape.sizes, "T": number})
                    if record in tuned:
                        choices = (candidates or {}).get(record.op, record.layout.configurations.candidates)
                        best = _times(record, taken, choices, timer)
                        yield {"op": record.op, "tokens": number, "share": share, "ms": best}
                    else:
                        launch.launch(record, taken)
                    tensors |= taken
                    if record == tuned[-1]:
                        break


def _arguments(
    record: KernelRecord, tensors: Mapping[str, torch.Tensor], sizes: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """A kernel's tensors: inputs as they are, and zeros for what it writes."""
    taken = {}
    for argument in record.arguments_of():
        if argument.kind == OUTPUT:
            like = tensors["k" if argument.dtype == "int32" else "x"]
            taken[argument.name] = like.new_zeros(axes_sizes(argument.axes, sizes))
        elif argument.kind != SIZE:
            taken[argument.name] = tensors[argument.name]
    return taken


def _times(
    record: KernelRecord, tensors: Mapping[str, torch.Tensor], choices: Sequence[Configuration], timer: Timer
) -> dict[str, float]:
    """Median milliseconds of every candidate that fits, by its name, the fastest first."""
    calls: dict[str, Call] = {}
    for choice in choices:

        def call(choice: Configuration = choice) -> None:
            launch.launch(record, tensors, choose=lambda *_: choice)

        if _fits(call):
            calls[choice.name] = call
    times = {name: statistics.median(runs) for name, runs in timer(calls).items()}
    return dict(sorted(times.items(), key=lambda entry: entry[1]))


def _fits(call: Call) -> bool:
    """Whether the device has the shared memory for it."""
    from triton.runtime.errors import OutOfResources

    try:
        call()
    except OutOfResources:
        return False
    return True
