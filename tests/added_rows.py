"""A backend, a target and two kinds of budgets as another project would add them: a row each, and the loader's file.

The loader is in this file; nothing else of adaptrt knows of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adaptrt.runtime.backends import Backend, BackendSettings
from adaptrt.runtime.backends.backend_table import BACKENDS, BackendRecord
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TARGETS, TargetRecord
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, TIME, WORK, BudgetKind, Gauge, TextForm

LOADED: list[tuple[str, Path]] = []
"""Names of the rows whose stages were loaded here, and of which bundle."""


def load_stages(
    record: BackendRecord, root: Path, bundle: Bundle, settings: BackendSettings
) -> tuple[str, list[Backend]]:
    """What the target's row made of the bundle, or the portable files, on ONNX Runtime."""
    from adaptrt.runtime.backends.onnxruntime import OnnxRuntimeBackend
    from adaptrt.runtime.backends.stage_programs import find_engines, portable_programs, prepared_programs

    LOADED.append((record.name, root))
    if record.target:
        folder, engines = find_engines(record, root, bundle, "fp32")
        programs = prepared_programs(folder, engines, bundle)
    else:
        programs = portable_programs(root, bundle)
    return "fp32", [OnnxRuntimeBackend(program, settings) for program in programs]


def backend(**changes: Any) -> BackendRecord:
    """The row of a backend named ``dummy``."""
    row: dict[str, Any] = {
        "name": "dummy",
        "title": "Dummy Engine",
        "loader": "tests.added_rows:load_stages",
        "modules": ("dummy_engine",),
        "extras": ("dummy",),
        "target": "dummy",
        "precisions": ("fp32", "fp4"),
        "usual": "float32",
        "place": 0,
        "because": "it is the dummy",
        "on_host": True,
        "on_machine": "a dummy",
        "proved": "it is one",
    }
    return BackendRecord(**(row | changes))


TARGET = TargetRecord(
    name="dummy",
    backend="dummy",
    builder="adaptrt.export.targets.target_builder:TargetBuilder",
    precisions=("fp32",),
    plugins=("none",),
    modules=(),
    extra="",
    required=False,
    gpu=False,
    sized=False,
    made="graphs for the dummy",
    needs="nothing",
    examples=("--rebuild",),
)
PROMISE = {"holds_for": "a dummy", "guaranteed": "no", "needs": "nothing"}
SECONDS = BudgetKind(
    name="seconds",
    counts="seconds per call",
    meter=TIME,
    call="Budget('seconds', 0.008)",
    forms=(TextForm("s"), TextForm("min", multiplier=60.0)),
    short="seconds",
    written="seconds such as 0.008s",
    metavar="S",
    shown="{value:.4g} s for {percentile:.4g} of the calls",
    factor=1e3,
    percentile=0.9,
    gauge=Gauge("adaptrt_budget_seconds", "seconds per call"),
    **PROMISE,
)
PERMILLE = BudgetKind(
    name="permille",
    counts="thousandths of the dense model's work",
    meter=WORK,
    call="Budget('permille', 500)",
    forms=(TextForm("pm"),),
    short="thousandths",
    written="thousandths such as 500pm",
    metavar="PM",
    shown="{value:.4g} thousandths of the dense work",
    shown_hard="{value:.4g} thousandths of the dense work for each sample",
    factor=1 / 1024,  # exact, so that equality can be asked for
    gauge=Gauge("adaptrt_budget_permille", "thousandths"),
    **PROMISE,
)


@contextmanager
def added(*rows: Any) -> Iterator[None]:
    """Within the block the rows are in their tables."""
    tables: dict[type, Any] = {BackendRecord: BACKENDS, TargetRecord: TARGETS, BudgetKind: BUDGET_KINDS}
    for row in rows:
        tables[type(row)].add(row)
    try:
        yield
    finally:
        for row in rows:
            del tables[type(row)][row.name]
        LOADED.clear()
