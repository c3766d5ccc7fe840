"""The kernels on this machine's GPU: are they right, and does time follow work?

``python -m adaptrt.bench.gpu_check``, or ``make gpu-check``. Needs torch and Triton, nothing else, not even an
installation: ``PYTHONPATH=src`` in the repository is enough. Exit code 0: everything right and measured;
1: a kernel is wrong, and nothing is measured; 2: it cannot be run here.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaptrt import AdaptrtError, write_atomically
from adaptrt.bench.timing.machine import describe_source

if TYPE_CHECKING:
    from adaptrt.bench.gpu.reference import Check, Sizes
    from adaptrt.bench.gpu.time import MLPShape, Rates, Row, Timer
    from adaptrt.plugins_trt.launch import Choose

_ROUNDS = 100
_WRONG, _CANNOT = 1, 2


@dataclass(frozen=True)
class Result:
    """What one run found; ``linearity`` is R squared of time over share at the most tokens."""

    benchmark: str
    device: dict[str, Any]
    source: dict[str, Any]
    method: str
    shape: MLPShape
    checks: tuple[Check, ...]
    rates: Rates | None = None
    rows: tuple[Row, ...] = ()
    linearity: float | None = None
    engine: str = ""
    tuning: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Plan:
    """What to check and measure; tests take a small one, and a timer that needs no GPU."""

    device: str
    timer: Timer
    cases: tuple[Sizes, ...]
    shape: MLPShape
    tokens: Sequence[int]
    shares: Sequence[float]
    rate_size: int = 8192


def run(plan: Plan, described: dict[str, Any], choose: Choose, say: Callable[[str], None]) -> Result:
    """Check all kernels and, if all are right, measure them.

    Args:
        plan: What to do.
        described: The device, for the record.
        choose: Gives the configuration of each kernel.
        say: Takes lines for the user.
    """
    from adaptrt.bench.gpu import reference as gpu_reference
    from adaptrt.bench.gpu import time as gpu_time

    checked = []
    for check in gpu_reference.checks(plan.cases, plan.device, choose):
        checked.append(check)
        if not check.passed:
            kind = f"{check.dtype} {check.weights}" + (f" {check.activations} activations" if check.activations else "")
            say(f"WRONG {check.kernel} {kind}: {check.case}: {check.distance:.3g} of tolerance")
    wrong = sum(not check.passed for check in checked)
    say(f"{len(checked) - wrong} of {len(checked)} comparisons with float64 are right")
    method = (gpu_time.__doc__ or "").partition("\n\n")[2].strip()
    result = Result("gpu_check", described, describe_source(), method, plan.shape, tuple(checked))
    if wrong:
        return result
    rates = gpu_time.measure_rates(plan.timer, plan.device, plan.rate_size)
    rows: list[Row] = []
    for tokens in plan.tokens:
        timings = gpu_time.measure_tokens(tokens, plan.shape, plan.shares, plan.timer, rates, plan.device, choose)
        rows += timings
    most = [row for row in rows if row.tokens == max(plan.tokens)]
    linearity = gpu_time.determination(most)
    return Result(
        **{**vars(result), "rates": rates, "rows": tuple(rows), "linearity": linearity},
    )


def table(result: Result) -> str:
    """The measurements as text."""
    lines = [
        f"{result.device.get('name', '?')}, float16, {result.shape.width} -> {result.shape.learners} x "
        f"{result.shape.hidden} -> {result.shape.width}; ms: median (quartiles); efficiency: share of work / of time",
    ]
    if result.rates is not None:
        lines.append(
            f"copy {result.rates.bytes_per_second / 1e9:,.0f} GB/s, cuBLAS float16 "
            f"{result.rates.flops_per_second / 1e12:,.1f} TFLOP/s"
        )
    lines.append(f"{'tokens':>6} {'share':>6} {'dense':>24} {'adaptive':>24} {'floor':>8} {'efficiency':>10}")
    for row in result.rows:
        dense, adaptive = (f"{time.median:.4f} ({time.low:.4f}-{time.high:.4f})" for time in (row.dense, row.adaptive))
        lines.append(
            f"{row.tokens:>6} {row.share:>6.1%} {dense:>24} {adaptive:>24} {row.floor_ms:>8.4f} {row.efficiency:>10.2f}"
        )
    if result.linearity is not None:
        lines.append(f"time over share at {max(row.tokens for row in result.rows)} tokens: R^2 {result.linearity:.4f}")
    lines += [
        f"{entry['op']} at {entry['tokens']} tokens, share {entry['share']:.0%}: "
        + ", ".join(f"{name} {ms:.4f}" for name, ms in entry["ms"].items())
        for entry in result.tuning
    ]
    return "\n".join([*lines, *filter(None, [result.engine])])


def encode(result: Result) -> bytes:
    """The result as JSON; what is not finite, which JSON has not, becomes null."""

    def plain(content: Any) -> Any:
        if isinstance(content, dict):
            return {key: plain(value) for key, value in content.items()}
        if isinstance(content, (list, tuple)):
            return [plain(value) for value in content]
        return None if isinstance(content, float) and not math.isfinite(content) else content

    return (json.dumps(plain(asdict(result)), indent=2, allow_nan=False) + "\n").encode()


def describe_device() -> dict[str, Any]:
    """Name, architecture, driver and the packages that matter. No host names, no paths."""
    import torch
    import triton

    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader", "--id=0"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        said = ""
    driver, clock, power = (part.strip() for part in (said + ",,").split(",")[:3])
    return {
        "name": properties.name,
        "arch": properties.major * 10 + properties.minor,
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "driver": driver or None,
        "clock_limit": clock or None,
        "power_limit": power or None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def missing() -> str:
    """Why this cannot be run here, on one line; empty where it can."""
    try:
        import torch
        import triton  # noqa: F401
    except ImportError as error:
        return f"got no {error.name}, expected torch and triton; pip install torch triton"
    if not torch.cuda.is_available():
        return "got no CUDA device, expected one; nothing was checked (make test runs the kernels without a GPU)"
    from adaptrt.plugins_trt import launch

    if launch.is_interpreted():
        return "got TRITON_INTERPRET=1, expected kernels to be compiled; unset it"
    return ""


def _engine_said(plan: Plan) -> str:
    """What TensorRT-RTX makes of the portable body, on a line."""
    import statistics

    import torch

    from adaptrt.bench.gpu import engine as gpu_engine
    from adaptrt.bench.gpu import time as gpu_time

    tokens = max(plan.tokens)
    module, built, said = gpu_engine.build_here(plan.shape, tokens)
    if module is None:
        return said
    x = torch.randn(tokens, plan.shape.width, device=plan.device, dtype=torch.float16)
    parts = []
    try:
        for share in plan.shares:
            k = gpu_time.draw_decisions(plan.shape, tokens, share, plan.device)
            call, _ = gpu_engine.engine_call(module, built, x, k)
            runs = []
            for _ in range(20):  # its body waits for the device, which no CUDA graph can hold
                begin, end = gpu_time.event_pair()
                begin.record()
                call()
                end.record()
                torch.cuda.synchronize()
                runs.append(begin.elapsed_time(end))
            parts.append(f"{share:.0%} {statistics.median(runs):.3f} ms")
    except (RuntimeError, TypeError, AttributeError) as error:
        return f"{said}; it does not run: {' '.join(str(error).split())[:200]}"
    return f"{said}; at {tokens} tokens, not captured in a graph: {', '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(prog="python -m adaptrt.bench.gpu_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"timed runs of each call ({_ROUNDS})")
    parser.add_argument("--tune", action="store_true", help="time the candidate configurations of each GEMM, too")
    options = parser.parse_args(arguments)
    reason = missing()
    if not reason and options.rounds < 2:
        reason = f"got {options.rounds} rounds, expected at least 2"
    if not reason and options.json is not None and not options.json.parent.is_dir():
        reason = f"got no folder {options.json.parent}; make it first, or name another file"
    if reason:
        print(f"error: {reason}", file=sys.stderr)
        return _CANNOT
    from adaptrt.bench.gpu import reference as gpu_reference
    from adaptrt.bench.gpu import time as gpu_time
    from adaptrt.bench.gpu import tune as gpu_tune
    from adaptrt.plugins_trt.launch import choose_configuration

    timer = gpu_time.cuda_timer(options.rounds)
    plan = Plan("cuda", timer, gpu_reference.CASES, gpu_time.MLPShape(), gpu_time.TOKENS, gpu_time.SHARES)
    try:
        result = run(plan, describe_device(), choose_configuration, print)
        if result.rows:
            result = Result(**{**vars(result), "engine": _engine_said(plan)})
        if result.rows and options.tune:
            tuning: Iterable[dict[str, Any]] = gpu_tune.tune(plan.shape, (1576, 8192), (1.0, 0.5), timer, plan.device)
            result = Result(**{**vars(result), "tuning": tuple(tuning)})
        print(table(result))
        if options.json is not None:
            write_atomically(options.json, encode(result))
    except (AdaptrtError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return _CANNOT
    return 0 if all(check.passed for check in result.checks) else _WRONG


if __name__ == "__main__":
    sys.exit(main())
