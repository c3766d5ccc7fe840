"""Prepare the emulated system, run parts of the tests in it, keep what came of each.

python -m tests.aarch64 [--part NAME]... [--folder build/aarch64] [--json bench/results/aarch64.json]
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from adaptrt import write_atomically
from adaptrt.bench.timing.machine import describe_source
from tests.aarch64.emulated import CPU, Emulated, NotPreparedError, build_programs, prepare
from tests.aarch64.parts import PARTS, Part

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "bench" / "results" / "aarch64.json"


def main() -> int:
    """The exit status: 1 where a test failed, 2 where nothing could run."""
    parser = argparse.ArgumentParser(description="Run the runtimes' tests as aarch64 programs, in an emulator.")
    parser.add_argument("--part", action="append", choices=PARTS, help="may be given again; without it all but smoke")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "aarch64", help="of what is fetched and built")
    parser.add_argument("--json", type=Path, default=RESULT, help="where the results of the parts are kept")
    given = parser.parse_args()
    names = given.part or [name for name, part in PARTS.items() if part.kept]
    try:
        emulated = prepare(given.folder)
        if any(PARTS[name].programs for name in names):
            build_programs(emulated)
    except NotPreparedError as error:
        print(error, file=sys.stderr)
        return 2
    return max(run_part(emulated, name, given.json) for name in names)


def run_part(emulated: Emulated, name: str, kept: Path) -> int:
    """Run the tests of a part; keep the result where it is one that is kept."""
    part, report = PARTS[name], emulated.folder / f"{name}.xml"
    report.unlink(missing_ok=True)
    start = time.monotonic()
    print(f"aarch64: running {name}", flush=True)
    status = subprocess.run(command(emulated, part, report), cwd=ROOT, env=environment(emulated)).returncode
    if not report.exists():
        print(f"got no report of the tests, expected {report}; pytest's status was {status}", file=sys.stderr)
        return 1
    result = {**read_report(report), "seconds": round(time.monotonic() - start), "left_out": dict(part.left_out)}
    print(f"aarch64: {name}: {result['passed']} passed, {result['failed']} failed, {result['skipped']} skipped")
    if part.kept:
        keep(kept, name, {**describe(emulated), **result})
    return int(bool(status or result["failed"] or not result["passed"]))


def command(emulated: Emulated, part: Part, report: Path) -> list[str]:
    """Pytest in the emulated Python."""
    words = [str(emulated.python), "-m", "pytest", "-p", "no:cacheprovider", "-m", "not exhaustive", "-rs"]
    words += [f"--junitxml={report}", *(f"--deselect={test}" for test in part.left_out)]
    return [*words, *(["-k", part.expression] if part.expression else []), *part.paths]


def environment(emulated: Emulated) -> dict[str, str]:
    """Of the tests; a C++ program that cannot be had is an error."""
    own = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    cpp = {"ADAPTRT_CPP_BUILD": str(emulated.programs), "ADAPTRT_CPP_REQUIRED": "1"}
    return {**os.environ, **own, **cpp}


def read_report(report: Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped; which failed, and why others were skipped.

    Args:
        report: Pytest's XML.
    """
    passed, failures, reasons = 0, [], collections.Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None:
            reasons[skipped.get("message", "")] += 1
        elif case.find("failure") is not None or case.find("error") is not None:
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            passed += 1
    return {
        "passed": passed,
        "failed": len(failures),
        "skipped": reasons.total(),
        "failures": failures,
        "skipped_because": dict(sorted(reasons.items())),
    }


def describe(emulated: Emulated) -> dict[str, Any]:
    """When, from which commit, with what."""
    packages = {name: emulated.version(name) for name in ("onnxruntime", "numpy")}
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"date": date, **describe_source(), "qemu": emulated.emulator_version(), "cpu": CPU, "packages": packages}


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """Write the result of one part beside those of the others."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content[name] = result
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
