"""Which precision to train in: bfloat16 where this machine computes it rightly and clearly faster than float32."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from adaptrt import write_atomically
from adaptrt.models.training.devices import CPU
from adaptrt.models.training.phase import CheckpointError
from adaptrt.models.training.recipe import PRECISIONS, RECIPE_FILE, Recipe

CHOICE_FILE = "precision.json"
"""Beside checkpoints: the choice that their training began with."""

CLEARLY = 1.2
"""So many times as fast as float32 bfloat16 must be."""

_ROWS, _WIDTH, _HIDDEN = 512, 192, 768
"""The product that is timed: that of the ready models' feed-forward networks, for fewer rows."""

_ROUNDS, _LEAST_ROUNDS, _SECONDS = 9, 3, 0.15
"""Turns of both precisions; after the least of them no more begin once so much time is spent."""

_TOLERANCE = 2**-6
"""Of the largest value: bfloat16 rounds by up to 2^-8, and thousands of products add up to a few times that."""

_clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-4 else time.perf_counter

_ASKED = "it was asked for"

Step = Callable[[], tuple[Tensor, ...]]


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision to train in.

    Attributes:
        precision: As in ``Recipe``.
        reason: Why this one, in half a sentence.
        speedup: How many times as fast as float32 bfloat16 was; None: that was not measured.
    """

    precision: str
    reason: str
    speedup: float | None = None


def choose_precision(asked: str, *folders: Path, device: torch.device = CPU) -> PrecisionChoice:
    """The precision that was asked for; for ``auto`` that of a training that began, else what this machine is best at.

    Args:
        asked: "float32", "bfloat16" or "auto".
        folders: For checkpoints; the first that holds a training decides.
        device: To train on.
    """
    # Timing leaves MKL's own choice of threads off; so it is off where nothing is timed, too, and a training that is
    # resumed computes the same as one that never stopped.
    torch.set_num_threads(torch.get_num_threads())
    for folder in folders:
        began = _recorded(folder)
        if began is not None:
            precision, reason = (began, "this training began in it") if asked == "auto" else (asked, _ASKED)
            return PrecisionChoice(precision, reason, _kept_speedup(folder, precision))
    if asked != "auto":
        return PrecisionChoice(asked, _ASKED)
    return precision_of_this_machine() if device == CPU else _precision_of_gpu(device)


def _precision_of_gpu(device: torch.device) -> PrecisionChoice:
    """bfloat16 where a GPU has it: its tensor cores compute no float32."""
    with torch.cuda.device(device):
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    if has:
        return PrecisionChoice("bfloat16", "this GPU computes it")
    return PrecisionChoice("float32", "this GPU does not compute bfloat16")


def keep_choice(choice: PrecisionChoice, folder: Path) -> None:
    """Write down what a training begins with; one that began already goes on with what it has.

    Raises:
        CheckpointError: It began in another precision.
        OSError: It cannot be written.
    """
    began = _recorded(folder)
    if began is not None and began != choice.precision:
        raise CheckpointError(
            f"got precision {choice.precision}, expected {began}, in which the training in {folder} began; "
            "go on in that, or choose another folder to start afresh"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / RECIPE_FILE).exists():
        write_atomically(folder / CHOICE_FILE, msgspec.json.encode(choice) + b"\n")


@functools.cache
def precision_of_this_machine() -> PrecisionChoice:
    """What ``measure_precision`` says, asked once per process."""
    return measure_precision()


def linear_step(precision: str) -> Step:
    """A linear layer as training runs it: forward and backward; gives its output and all its gradients."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, gradient = (
        torch.randn(shape, generator=generator)
        for shape in ((_ROWS, _WIDTH), (_HIDDEN, _WIDTH), (_HIDDEN,), (_ROWS, _HIDDEN))
    )
    learned = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    recipe = Recipe(precision=precision)

    def step() -> tuple[Tensor, ...]:
        with recipe.autocast():
            y = torch.nn.functional.linear(x, weight, bias)
        return (y.detach(), *torch.autograd.grad(y, learned, gradient.to(y.dtype)))

    return step


def timed(step: Step) -> float:
    """Seconds that a step takes of this thread: while others have the core, its clock stands still."""
    began = _clock()
    step()
    return _clock() - began


def measure_precision(
    step_in: Callable[[str], Step] = linear_step, timer: Callable[[Step], float] = timed
) -> PrecisionChoice:
    """Compare both precisions by a step in each, in turns and on one thread, in less than 0.2 seconds.

    On all threads, what else the machine does would decide: one that waits for its turn keeps the others waiting.

    Args:
        step_in: Makes the step of a precision; its results are compared, too.
        timer: Runs a step and gives the seconds that it took.

    Returns:
        bfloat16 where it is right and clearly faster, else float32.
    """
    try:
        with _one_thread():
            steps = {precision: step_in(precision) for precision in PRECISIONS}
            results = [step() for step in steps.values()]  # which prepares each for its shapes, too
            if not all(_close(*pair) for pair in zip(*results, strict=True)):
                return PrecisionChoice("float32", "bfloat16 computes wrong products here")
            seconds = _in_turns(steps, timer)
    except Exception as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        return PrecisionChoice("float32", f"bfloat16 fails here ({cause})")
    if not all(math.isfinite(one) and one > 0 for taken in seconds.values() for one in taken):
        return PrecisionChoice("float32", "the clock gives no times here")
    speedup = statistics.median(seconds["float32"]) / statistics.median(seconds["bfloat16"])
    if speedup < CLEARLY:
        reason = f"bfloat16 is {speedup:.2f} times as fast here, less than {CLEARLY:g}"
        return PrecisionChoice("float32", reason, round(speedup, 3))
    return PrecisionChoice("bfloat16", f"{speedup:.1f} times as fast as float32 here", round(speedup, 3))


def _in_turns(steps: dict[str, Step], timer: Callable[[Step], float]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {precision: [] for precision in steps}
    for done in range(_ROUNDS):
        if done >= _LEAST_ROUNDS and sum(map(sum, seconds.values())) > _SECONDS:
            break
        for precision, step in steps.items():
            seconds[precision].append(timer(step))
    return seconds


def _close(exact: Tensor, computed: Tensor) -> bool:
    """Whether values are right to bfloat16's accuracy; NaN is not."""
    error = (computed.float() - exact.float()).abs().amax()
    return bool(error <= _TOLERANCE * exact.float().abs().amax())


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _recorded(folder: Path) -> str | None:
    """Precision of the training whose checkpoints a folder holds."""
    try:
        precision = json.loads((folder / RECIPE_FILE).read_bytes())["precision"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # nothing there, or nothing to go on from
        return None
    return precision if precision in PRECISIONS else None


def _kept_speedup(folder: Path, precision: str) -> float | None:
    """What was measured when the training of a folder began in a precision."""
    try:
        kept = msgspec.json.decode((folder / CHOICE_FILE).read_bytes(), type=PrecisionChoice)
    except (OSError, ValueError, RecursionError):  # the training records it, and needs it for nothing
        return None
    return kept.speedup if kept.precision == precision else None
