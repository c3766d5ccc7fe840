"""Backends, targets and budget kinds are named in their tables; elsewhere only in the few places listed here."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptrt.runtime.backends.backend_table import AUTO, BACKENDS, DEFAULT_BACKEND, BackendRecord, in_order
from adaptrt.runtime.bundle.target_table import PRECISIONS, TARGETS, all_precisions
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS, NOTHING, WORK
from adaptrt.runtime.table import Table, either, imported
from tests.added_rows import SECONDS, TARGET, added, backend

ROOT = Path(__file__).parents[1]
ROOMS = ("runtime", "export", "cli", "bench")
RECORDS = (
    "runtime/backends/backend_table.py",
    "runtime/bundle/target_table.py",
    "runtime/control/budget_kinds.py",
)
NAMED: dict[str, set[str]] = {
    # An engine's own file speaks of its package.
    "runtime/backends/openvino.py": {"openvino"},
    "export/targets/openvino_check.py": {"openvino"},
    # Here it is a backend of Triton.
    "export/targets/triton_repository.py": {"onnxruntime"},
    # Here it is the folder of npm's package in the built page.
    "export/demo/page.py": {"onnxruntime"},
    # Here it is the Python package that is measured or described, or a process that may import nothing of adaptrt.
    "bench/runtime_overhead.py": {"onnxruntime"},
    "bench/timing/machine.py": {"onnxruntime"},
    "bench/timing/session_worker.py": {"onnxruntime"},
}
"""Names that a file may have as a string of its own."""

Finding = tuple[str, int, str]


def sources() -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name not in RECORDS:
                yield name, ast.parse(path.read_text())


def names_as_strings(tree: ast.Module, names: set[str]) -> list[tuple[int, str]]:
    """Strings that are exactly a name."""
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [(node.lineno, node.value) for node in strings if node.value in names]


def names_listed(tree: ast.Module, names: set[str]) -> list[tuple[int, str]]:
    """Texts, f-strings and docstrings among them, that list two or more names."""
    hits = []
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = " ".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
        words = set(re.findall(r"(?<![\w.-])[a-z]+(?:-[a-z]+)*(?![\w(=-])", text))
        if len(words & names) > 1:
            hits.append((getattr(node, "lineno", 0), ", ".join(sorted(words & names))))
    return hits


def kinds_listed(tree: ast.Module, names: set[str]) -> list[tuple[int, str]]:
    """Comparisons with the name of a budget kind, collections of two or more, and texts that tell how to make them."""
    hits = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            children = [node.left, *node.comparators]
            least = 1 if "kind" in ast.unparse(node) else 2
        elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            children, least = node.elts, 2
        elif isinstance(node, ast.Dict):
            children, least = [key for key in node.keys if key is not None], 2
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            calls = {name for name in names if f"Budget.{name}" in node.value}
            examples = {example for example in ("50%", "90M", "8ms", "40mJ", "10W") if example in node.value.split()}
            if len(calls) > 1 or len(examples) > 1:
                hits.append((node.lineno, ", ".join(sorted(calls | examples))))
            continue
        else:
            continue
        values = {child.value for child in children if isinstance(child, ast.Constant) and child.value in names}
        if len(values) >= least:
            hits.append((node.lineno, ", ".join(sorted(values))))
    return hits


def findings(rule: Any, names: set[str]) -> list[Finding]:
    return [(file, line, what) for file, tree in sources() for line, what in rule(tree, names)]


ENGINES = set(BACKENDS) | set(TARGETS)


def test_engines_are_named_in_their_tables_only() -> None:
    strings = [one for one in findings(names_as_strings, ENGINES) if one[2] not in NAMED.get(one[0], set())]
    assert not strings, "derive these names from BACKENDS or TARGETS"
    assert not findings(names_listed, ENGINES), "derive these lists from BACKENDS or TARGETS"


def test_what_is_allowed_is_there() -> None:
    there = {(file, name) for file, _, name in findings(names_as_strings, ENGINES)}
    assert {(file, name) for file, names in NAMED.items() for name in names} == there


KINDS_LISTED: set[str] = {
    "cli/run.py",  # examples, of single kinds
    "runtime/telemetry/nvml.py",  # what a GPU is asked for, which budgets of these names happen to need
}


def test_budget_kinds_are_named_in_their_table_only() -> None:
    files = {file for file, _, _ in findings(kinds_listed, set(BUDGET_KINDS))}
    assert files == KINDS_LISTED, "derive these from BUDGET_KINDS, or take an allowance back"


@pytest.mark.parametrize(
    ("source", "rule", "names"),
    [
        ('if backend == "openvino": pass', names_as_strings, ENGINES),
        ('help = "openvino, tensorrt or another"', names_listed, ENGINES),
        ('help = f"{x}: openvino or {y} tensorrt-rtx"', names_listed, ENGINES),
        ('if budget.kind == "latency": pass', kinds_listed, set(BUDGET_KINDS)),
        ('counted = kind in ("latency", "energy")', kinds_listed, set(BUDGET_KINDS)),
        ('units = {"latency": "ms", "energy": "mJ"}', kinds_listed, set(BUDGET_KINDS)),
        ('text = "pass Budget.fraction(0.5) or Budget.full()"', kinds_listed, set(BUDGET_KINDS)),
        ('text = "such as 8ms or 90M"', kinds_listed, set(BUDGET_KINDS)),
    ],
)
def test_what_is_written_by_hand_is_found(source: str, rule: Any, names: set[str]) -> None:
    assert rule(ast.parse(source), names)


def make_tables() -> Any:
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_tables_of_the_documents_are_the_records(path: Path) -> None:
    text = path.read_text()
    assert make_tables().filled(text) == text, "run python docs/make_tables.py"


def test_every_table_is_in_a_document_and_a_stale_one_is_noticed() -> None:
    module = make_tables()
    text = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    for name in module.TABLES:
        assert text.count(f"<!-- table: {name} -->\n") == 1
    assert module.filled(text.replace("| `openvino` |", "| `openvine` |")) == text
    with pytest.raises(ValueError, match="got table 'engines', expected one of backends"):
        module.filled("<!-- table: engines -->\n<!-- end -->")


def test_a_new_row_is_in_its_tables() -> None:
    module = make_tables()
    with added(backend(on_machine="a | b"), TARGET, SECONDS):
        assert "| `dummy` | `adaptrt build BUNDLE --target dummy` | a \\| b | it is one |" in module.table("backends")
        assert module.table("backend-order").splitlines()[2] == "| `dummy` | it is the dummy |"
        assert "| `dummy` | graphs for the dummy |" in module.table("targets")
        assert "| `Budget('seconds', 0.008)` | seconds such as 0.008s |" in module.table("budgets")


def test_rows_agree() -> None:
    for row in BACKENDS.values():
        assert not row.target or TARGETS[row.target].backend == row.name
        assert callable(imported(row.loader)) and (not row.dense or callable(imported(row.dense)))
        assert row.title and row.modules and row.precisions and row.name != AUTO
    assert len({row.place for row in BACKENDS.values()}) == len(BACKENDS)
    assert in_order()[-1].name == DEFAULT_BACKEND
    for target in TARGETS.values():
        backend = BACKENDS[target.backend]
        assert target.name == (backend.target or backend.prepared) and "none" in target.plugins
        assert set(target.precisions) <= set(BACKENDS[target.backend].precisions)
    suffixes = [form.suffix for kind in BUDGET_KINDS.values() for form in kind.forms]
    assert len(set(suffixes)) == len(suffixes)
    for kind in BUDGET_KINDS.values():
        assert bool(kind.forms) == bool(kind.gauge) == (kind.meter is not NOTHING)
        assert bool(kind.shown_hard) == (kind.meter is WORK)
        assert kind.percentile == 0 or f"{kind.percentile:.0%}" in kind.holds_for or kind.percentile == 0.5


def test_openvino_knows_its_precisions() -> None:
    from adaptrt.runtime.backends.openvino import _PRECISIONS

    assert tuple(_PRECISIONS) == BACKENDS["openvino"].precisions


def test_precisions_of_targets_are_in_their_table() -> None:
    assert tuple(PRECISIONS) == tuple(name for name in PRECISIONS if name in all_precisions())
    for target in TARGETS.values():
        assert set(target.precisions) <= set(PRECISIONS) & set(BACKENDS[target.backend].precisions)
        assert target.gpu or not any(PRECISIONS[name].architectures_from for name in target.precisions)


def test_targets_have_builders() -> None:
    pytest.importorskip("torch", reason="the export is not installed")
    from adaptrt.export.targets.target_builder import TargetBuilder

    for target in TARGETS.values():
        assert issubclass(imported(target.builder), TargetBuilder)


def test_probing_imports_nothing() -> None:
    record: BackendRecord = BACKENDS[DEFAULT_BACKEND]
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert record.installed and re.match(r"\d+\.\d+", record.installed_version() or "")
    missing = record._replace(modules=("no_such_engine",), extras=())
    assert not missing.installed and missing.installed_version() is None and missing.install == "install it"


def test_a_name_is_taken_once() -> None:
    table = Table("backend", BACKENDS.values())
    with pytest.raises(ValueError, match="got a second backend 'openvino', expected another name"):
        table.add(BACKENDS["openvino"])
    assert either(["a"]) == "a" and either(["a", "b"]) == "a or b" and either(["a", "b", "c"]) == "a, b or c"
