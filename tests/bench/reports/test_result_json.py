from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.result_json import encode_result, write_json
from adaptrt.bench.timing.interleave import Spread


def test_dataclasses_tuples_and_number_keys() -> None:
    content = json.loads(encode_result({1: Spread(0.123456789, 0.1, 0.2), "rows": (1, None, "é", True)}))
    assert content == {"1": {"median": 0.123457, "low": 0.1, "high": 0.2}, "rows": [1, None, "é", True]}


def test_a_threshold_of_infinity_is_null_as_in_a_bundle() -> None:
    knobs = {"price": 0.5, "exit_thresholds": [0.25, math.inf]}
    content = json.loads(encode_result({"rows": [{"knobs": knobs}, {"knobs": {"exit_thresholds": math.inf}}]}))
    assert content["rows"][0]["knobs"] == {"price": 0.5, "exit_thresholds": [0.25, None]}
    assert content["rows"][1]["knobs"] == {"exit_thresholds": None}
    with pytest.raises(BenchError, match="cannot write"):
        encode_result({"exit_thresholds": [-math.inf]})


@pytest.mark.parametrize("value", [math.nan, math.inf, object()])
def test_what_json_cannot_hold_is_refused_and_nothing_written(value: object, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text("old")
    with pytest.raises(BenchError, match="cannot write"):
        write_json({"value": value}, file)
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
