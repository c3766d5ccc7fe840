"""Who passes the kit: read from the reports of every runtime's own tests, kept for the documentation.

``make conformance`` runs these tests, each of which writes a JUnit report, and hands the reports to this command, which
writes ``passed.json``; ``python docs/make_tables.py`` makes the table of it. A runtime
whose report is not among the given ones keeps its earlier row.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adaptrt.bench.timing.machine import describe_machine, describe_source
from tests.conformance.kit import INDEX, KIT, read_json

PASSED = Path(__file__).parent / "passed.json"


@dataclass(frozen=True)
class KitRuntime:
    """One runtime and what its tests are called.

    Attributes:
        name: Of the runtime.
        over: What executes its graphs.
        agreement: How near to the expected outputs it must be.
        report: Stem of its report's file.
        case: Pattern of the test of one bundle, which is its first group.
        refused: Tests of what must be refused; none: the kit's list is not run there.
        trace: Pattern of the test of one trace of the controller, or of all of them; "" where it has no controller.
    """

    name: str
    over: str
    agreement: str
    report: str
    case: str
    refused: tuple[str, ...]
    trace: str


_NODE_REFUSED = ("wrong inputs, budgets and knobs are refused", "damaged bundles are refused")
RUNTIMES = (
    KitRuntime(
        "Python",
        "ONNX Runtime",
        "1e-4 of the kit",
        "python",
        r"test_onnxruntime_passes\[(\w+)\]",
        ("test_what_must_be_refused_is",),
        r"test_traces_are_replayed\[traces/(.+)\.jsonl\]",
    ),
    KitRuntime("Python", "OpenVINO", "1e-4 of the kit", "python", r"test_openvino_passes\[(\w+)\]", (), ""),
    KitRuntime(
        "C++",
        "ONNX Runtime",
        "Python's, to the bit",
        "cpp",
        r"test_every_run_gives_the_bytes_of_python\[(\w+)\]",
        ("test_calls_are_refused_in_the_same_words", "test_damaged_bundles_are_refused_in_the_same_words"),
        r"test_the_controllers_traces_are_replayed\[traces/(.+)\.jsonl\]",
    ),
    KitRuntime(
        "JavaScript in Node.js",
        "onnxruntime-node",
        "2e-5 of the kit",
        "node",
        r"case (\w+)",
        _NODE_REFUSED,
        r"trace traces/(.+)\.jsonl",
    ),
    KitRuntime(
        "JavaScript in Chromium",
        "onnxruntime-web",
        "2e-5 of the kit",
        "browser",
        r"case (\w+)",
        (f"{_NODE_REFUSED[0]}, in a worker, too", _NODE_REFUSED[1]),
        r"traces of the controller()",
    ),
    *(
        KitRuntime(
            f"Server, {name}",
            "ONNX Runtime",
            "1e-4 of the kit, budgets alone",
            "server",
            rf"test_the_conformance_kit\[(\w+)-{protocol}\]",
            (),
            "",
        )
        for name, protocol in (("REST", "http"), ("gRPC", "grpc"))
    ),
)


@dataclass(frozen=True)
class Passed:
    """What one runtime passed.

    Attributes:
        runtime: Its name.
        over: What executed the graphs.
        agreement: How near to the expected outputs it had to be.
        cases: Bundles that it passed.
        refused: Whether it refuses all that must be refused; None: not run there.
        traces: Traces of the controller that it replays; None: not run there.
        day: When.
        cpu: On what.
        commit: Of which state.
    """

    runtime: str
    over: str
    agreement: str
    cases: list[str]
    refused: bool | None
    traces: int | None
    day: str
    cpu: str
    commit: str | None


def outcomes(report: Path) -> dict[str, bool]:
    """Tests by name and whether each passed; what was skipped did not."""
    bad = ("failure", "error", "skipped")
    named: dict[str, bool] = {}
    for case in ET.parse(report).iter("testcase"):
        passed = not any(case.find(kind) is not None for kind in bad)
        name = case.get("name", "")
        named[name] = named.get(name, True) and passed
    return named


def passed_by(runtime: KitRuntime, tests: dict[str, bool], traces: int, about: dict[str, Any]) -> Passed:
    """What a report says of a runtime.

    Args:
        runtime: Whose report it is.
        tests: As ``outcomes`` gives them.
        traces: How many the kit has, where one test is of all of them.
        about: ``day``, ``cpu`` and ``commit``.

    Raises:
        ValueError: The report lacks a test that the runtime should have.
    """
    cases = [match[1] for name, fine in tests.items() if (match := re.fullmatch(runtime.case, name)) and fine]
    if not cases:
        raise ValueError(f"got a report without a passed case of {runtime.name}, expected some; run `make conformance`")
    missing = [name for name in runtime.refused if name not in tests]
    if missing:
        raise ValueError(f"got a report of {runtime.name} without {missing[0]!r}, expected it; correct its row")
    matches = [(re.fullmatch(runtime.trace, name), fine) for name, fine in tests.items()] if runtime.trace else []
    replayed = [match[1] for match, fine in matches if match and fine]
    return Passed(
        runtime=runtime.name,
        over=runtime.over,
        agreement=runtime.agreement,
        cases=sorted(cases),
        refused=all(tests[name] for name in runtime.refused) if runtime.refused else None,
        traces=(traces if replayed == [""] else len(replayed)) if runtime.trace else None,
        **about,
    )


def merged(rows: Iterable[Passed], earlier: Sequence[Passed]) -> list[Passed]:
    """All runtimes in the table's order, earlier rows where there is no new one."""
    by_name = {(row.runtime, row.over): row for row in (*earlier, *rows)}
    order = [(runtime.name, runtime.over) for runtime in RUNTIMES]
    return [by_name[key] for key in order if key in by_name]


def read_passed(path: Path = PASSED) -> list[Passed]:
    """The kept rows."""
    return [Passed(**row) for row in json.loads(path.read_bytes())] if path.is_file() else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Read reports and keep what they say."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.passed", description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT", help="named after the rows' report, .xml")
    parser.add_argument("--output", type=Path, default=PASSED, help="default: passed.json beside the kit")
    given = parser.parse_args(arguments)
    reports = {path.stem: path for path in given.reports}
    if unknown := sorted(reports.keys() - {runtime.report for runtime in RUNTIMES}):
        known = ", ".join(dict.fromkeys(runtime.report for runtime in RUNTIMES))
        print(f"got the report {unknown[0]!r}, expected one of {known}; rename it", file=sys.stderr)
        return 2
    day = datetime.now(timezone.utc).date().isoformat()
    about = {"day": day, "cpu": describe_machine()["cpu"], "commit": describe_source()["commit"]}
    traces = len(read_json(KIT / INDEX)["traces"])
    try:
        rows = [
            passed_by(runtime, outcomes(reports[runtime.report]), traces, about)
            for runtime in RUNTIMES
            if runtime.report in reports
        ]
    except (ValueError, OSError, ET.ParseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kept = [asdict(row) for row in merged(rows, read_passed(given.output))]
    given.output.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(f"{row.runtime} over {row.over}: {len(row.cases)} bundles, refuses: {row.refused}, traces: {row.traces}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
