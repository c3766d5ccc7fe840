from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

from adaptrt.bench.serving.__main__ import Memory, Result, main, tabulate
from adaptrt.bench.serving.load import Request, judge, message
from adaptrt.bench.serving.overhead import LIMIT_MS, Overhead
from adaptrt.bench.serving.plot import plot_loads
from adaptrt.bench.timing.interleave import Spread
from adaptrt.runtime.serving.rest_messages import decode

FIXTURES = Path(__file__).parent.parent / "runtime" / "fixtures"


def requests() -> list[Request]:
    """Ten in each of three seconds: in time, late, and one lost."""
    kept = [Request(0.1 * place, 10.0, 200, 0.5) for place in range(10)]
    late = [Request(1 + 0.1 * place, 30.0, 200, 0.3) for place in range(10)]
    lost = [Request(2 + 0.1 * place, 10.0, 200, 0.4) for place in range(9)] + [Request(2.95, 1.0, 503, math.nan)]
    return kept + late + lost


def test_windows_are_judged_by_their_95_percent() -> None:
    load = judge("20ms", 20.0, 10.0, requests())
    assert load.requests == 30 and load.lost == 1
    assert load.windows_in_time == pytest.approx(2 / 3) and load.p95_ms == 30.0
    assert [window.lost for window in load.windows] == [0, 0, 1]
    assert [window.work for window in load.windows] == pytest.approx([0.5, 0.3, 0.4])


def test_a_second_without_an_answer_is_not_in_time() -> None:
    load = judge("20ms", 20.0, 10.0, [Request(0.5, 1.0, 0, math.nan)])
    assert load.lost == 1 and load.windows_in_time == 0.0 and load.windows[0].p95_ms is None
    assert math.isnan(load.work) and math.isnan(load.p95_ms)


def test_the_message_is_what_the_server_reads() -> None:
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "y": np.array([3], np.int64)}
    body, headers = message(inputs, "45%")
    request = decode(body, headers["Inference-Header-Content-Length"])
    assert all(np.array_equal(request.asked.inputs[name], array) for name, array in inputs.items())
    assert request.asked.written == "45%" and request.binary


def test_the_result_is_shown_and_drawn(tmp_path: Path) -> None:
    loads = [judge(budget, 20.0, 10.0, requests()) for budget in ("20ms", "full")]
    spread = Spread.of([1.0, 2.0, 3.0])
    added = [Overhead(protocol, spread, spread, spread, LIMIT_MS) for protocol in ("http", "grpc")]
    result = Result("serving", "digits", 16, added, 5.0, loads, Memory(100, [50.0, 51.0], 1.0), {}, {})
    text = io.StringIO()
    Console(file=text, width=140).print(tabulate(result))
    assert "20ms" in text.getvalue() and "67%" in text.getvalue() and "growth" in text.getvalue()
    plot_loads(loads, tmp_path / "load.svg")
    assert (tmp_path / "load.svg").read_text().startswith("<?xml")


def test_a_bundle_without_points_is_refused(tmp_path: Path) -> None:
    bare = json.loads((FIXTURES / "tiny" / "bundle.json").read_text())
    bare["curve"], bare["budget_table"] = [], None
    for file in (FIXTURES / "tiny").iterdir():
        if file.name != "bundle.json" and file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "bundle.json").write_text(json.dumps(bare))
    done = CliRunner().invoke(main, [str(tmp_path)])
    assert done.exception is not None and "expected a calibrated one" in str(done.exception)


@pytest.mark.slow("starts a server and sends it a load")
def test_it_measures_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    words = [str(FIXTURES / "tiny"), "--turns", "5", "--seconds", "2", "--samples", "2", "--requests", "40"]
    words += ["--json", str(tmp_path / "serving.json"), "--plot", str(tmp_path / "serving.png")]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert done.exit_code == 0
    kept = json.loads((tmp_path / "serving.json").read_text())
    assert [row["protocol"] for row in kept["overhead"]] == ["http", "grpc"] and len(kept["loads"]) == 2
    assert kept["memory"]["requests"] == 40 and len(kept["memory"]["mib"]) == 10
    assert (tmp_path / "serving.png").stat().st_size > 1000
