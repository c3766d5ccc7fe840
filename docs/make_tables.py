"""Fills the tables in ``docs/*.md`` that come from the code's tables of records.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; ``NAME`` is a key of ``TABLES``, where another
table is one more line. Run it after a change to a record, from the repository's folder: ``python docs/make_tables.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from adaptrt.models.adapters import ADAPTERS
from adaptrt.models.adapters.pretrained.convolutional.rows import CONVOLUTIONAL_ROWS
from adaptrt.models.adapters.pretrained.rows import ROWS, Row
from adaptrt.models.encoder_config import FAMILIES
from adaptrt.models.tasks import TASKS
from adaptrt.ops import RECORDS
from adaptrt.runtime.backends.backend_table import BACKENDS, BackendRecord, attempts
from adaptrt.runtime.bundle.target_table import REPOSITORIES, TARGETS
from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

DOCS = Path(__file__).parent
_REGION = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Columns = Mapping[str, Callable[[Any], str]]
"""For each heading what gives a record's cell."""


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _in_bundle(backend: BackendRecord) -> str:
    return f"`adaptrt build BUNDLE --target {backend.target}`" if backend.target else "nothing"


_BACKENDS: Columns = {
    "backend": lambda backend: f"`{backend.name}`",
    "what it needs in the bundle": _in_bundle,
    "what it needs on the machine": lambda backend: backend.on_machine,
    "how far it was proved": lambda backend: backend.proved,
}
_ORDER: Columns = {
    "`auto` tries": lambda backend: f"`{backend.name}`",
    "and takes it where": lambda backend: backend.because,
}
_PRECISIONS: Columns = {
    "backend": lambda backend: f"`{backend.name}`",
    "without `precision`": lambda backend: backend.usual,
    "`precision` may be": lambda backend: _code(backend.precisions),
}
_TARGETS: Columns = {
    "`--target`": lambda target: f"`{target.name}`",
    "what is left in the bundle": lambda target: target.made,
    "what building needs": lambda target: target.needs,
    "`--precision`": lambda target: _code(target.precisions),
    "`--plugins`": lambda target: _code(target.plugins),
    "run by": lambda target: f"`{target.backend}`",
}
_REPOSITORIES: Columns = {
    "`--target`": lambda target: f"`{target.name}`",
    "what is written": lambda target: target.made,
    "what the server needs": lambda target: target.needs,
    "`--precision`": lambda target: _code(target.precisions),
    "how far it was proved": lambda target: target.proved,
}
_BUDGETS: Columns = {
    "budget": lambda kind: f"`{kind.call}`",
    "as text": lambda kind: kind.written,
    "holds for": lambda kind: kind.holds_for,
    "guaranteed": lambda kind: kind.guaranteed,
    "needs": lambda kind: kind.needs,
}


def _summary(kind: Any) -> str:
    """The first sentence of a docstring."""
    return (kind.__doc__ or "").strip().splitlines()[0].rstrip(".")


_TASKS: Columns = {
    "task": lambda task: f"`{task.name}`",
    "outputs beside `macs_fraction`": lambda task: _code(task.outputs),
    "quality is the": lambda task: task.metric,
}
_FAMILIES: Columns = {
    "in `config.json`": lambda family: f"`{family.name}`",
    "configuration": lambda family: f"`{family.__name__}`",
    "what it says": _summary,
    "its own price": lambda family: f"`{family.own_price}`" if family.own_price else "",
}
_ADAPTERS: Columns = {
    "`architecture`": lambda row: f"`{row[1].architecture}`",
    "configuration": lambda row: f"`{row[0].__name__}`",
    "what it is": lambda row: _summary(row[1]),
}


def _order(row: Row) -> str:
    if row.post_norm is None:
        return f"before with `{row.pre_norm_flag}`, else after"
    return "after" if row.post_norm else "before"


_PRETRAINED: Columns = {
    "families": lambda row: row.families,
    "queries and output in a layer": lambda row: _code((row.projections[0], row.out)),
    "normalises each half": _order,
    "feed-forward network": lambda row: "gated" if row.gate else "plain",
    "scales": lambda row: "yes" if row.scales else "",
}
_CONVOLUTIONAL: Columns = {
    "families": lambda row: row.families,
    "before the layers": lambda row: f"`{row.stem}`",
    "parameters in a layer, among others": lambda row: _code(row.layer),
    "before the layers of a stage": lambda row: f"`{row.before}`" if row.before else "",
    "normalises the mean": lambda row: f"`{row.norm}`" if row.norm else "",
}
_OPS: Columns = {
    "op": lambda record: f"`{record.name}`",
    "what it computes": lambda record: record.summary.replace("|", "\\|"),
    "kernels": lambda record: _code(part.name for part in record.parts),
}

_CONFORMANCE: Columns = {
    "runtime": lambda row: row["runtime"],
    "over": lambda row: row["over"],
    "bundles": lambda row: f"{len(row['cases'])} passed",
    "outputs within": lambda row: row["agreement"],
    "refuses what it must": lambda row: {True: "all", False: "**not all**", None: "not run there"}[row["refused"]],
    "traces of the controller": lambda row: "not run there" if row["traces"] is None else f"{row['traces']} replayed",
    "last run": lambda row: f"{row['day']}, {row['cpu']}",
}


def _conformance() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((DOCS.parent / "tests" / "conformance" / "passed.json").read_bytes())
    return rows


TABLES: dict[str, tuple[Columns, Callable[[], Iterable[Any]]]] = {
    "backends": (_BACKENDS, BACKENDS.values),
    "backend-order": (_ORDER, attempts),
    "backend-precisions": (_PRECISIONS, BACKENDS.values),
    "targets": (_TARGETS, TARGETS.values),
    "repositories": (_REPOSITORIES, REPOSITORIES.values),
    "budgets": (_BUDGETS, BUDGET_KINDS.values),
    "tasks": (_TASKS, TASKS.values),
    "families": (_FAMILIES, FAMILIES.values),
    "adapters": (_ADAPTERS, ADAPTERS.items),
    "pretrained": (_PRETRAINED, lambda: ROWS),
    "convolutional": (_CONVOLUTIONAL, lambda: CONVOLUTIONAL_ROWS),
    "ops": (_OPS, RECORDS.values),
    "conformance": (_CONFORMANCE, _conformance),
}
"""The columns of each table, and what gives its records."""


def table(name: str) -> str:
    """A table in Markdown.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in TABLES:
        raise ValueError(f"got table {name!r}, expected one of {', '.join(TABLES)}; correct the marker")
    columns, records = TABLES[name]
    lines: list[Iterable[str]] = [columns, ["---"] * len(columns)]
    lines += [[cell(record).replace("|", "\\|") for cell in columns.values()] for record in records()]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def filled(text: str) -> str:
    """A document with its tables as the records have them.

    Raises:
        ValueError: A marker names no table.
    """
    return _REGION.sub(lambda region: region[1] + table(region[2]) + region[3], text)


def main() -> None:
    """Fill all documents."""
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        if (new := filled(text)) != text:
            path.write_text(new)
            print(f"wrote {path.name}")


if __name__ == "__main__":
    main()
