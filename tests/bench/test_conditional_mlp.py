from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner

from adaptrt.bench.conditional_mlp import (
    ACTIVATION_OF,
    DENSE,
    FFNShape,
    adaptive_graph,
    dense_graph,
    draw_decisions,
    draw_weights,
    main,
    turns,
)
from adaptrt.ops import RECORDS

SHAPE = FFNShape(width=24, hidden=64)


def test_ops_to_measure_are_those_of_the_records() -> None:
    assert set(ACTIVATION_OF) == {record.name for record in RECORDS.values() if "ACTIVATION" in str(record.parts)}
    nodes = [node.op_type for node in dense_graph(draw_weights(SHAPE, np.random.default_rng(0))).graph.node]
    assert nodes == ["Gemm", "Gelu", "Gemm"]


@pytest.mark.parametrize("op", ACTIVATION_OF)
def test_both_graphs_are_valid_and_equal_where_all_learners_run(op: str) -> None:
    generator = np.random.default_rng(0)
    weights = draw_weights(SHAPE, generator, RECORDS[op])
    x = generator.standard_normal((37, SHAPE.width)).astype(np.float32)
    outputs = []
    for model, feeds in (
        (dense_graph(weights, RECORDS[op]), {"x": x}),
        (adaptive_graph(weights, RECORDS[op]), {"x": x, "k": np.full(37, 4, np.int32)}),
    ):
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, feeds)[0])
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    assert np.std(outputs[0]) > 0.1


def test_decisions_are_of_the_shares_they_are_named_for() -> None:
    drawn = draw_decisions(SHAPE, 4000, np.random.default_rng(0))
    assert len(drawn) + 1 == turns(SHAPE)
    for name, arrays in drawn.items():
        kind, number = name.split()
        share = float(number) if kind == "binomial" else int(number) / SHAPE.learners
        for k in arrays:
            assert k.dtype == np.int32 and k.shape == (4000,) and k.min() >= 0 and k.max() <= SHAPE.learners
            assert k.mean() / SHAPE.learners == pytest.approx(share, abs=0.02)
            assert (k.std() == 0) == (kind == "constant" or share == 1)


def test_command_writes_valid_json_whose_efficiencies_follow_from_its_ratios(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    options = ["--quick", "--tokens", "9", "--tokens", "5", "--threads", "1", "--json", str(file)]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0 and "efficiency" in done.output
    result = json.loads(file.read_text())
    assert str(tmp_path) not in file.read_text()
    assert {row["tokens"] for row in result["rows"]} == {5, 9}
    assert len(result["rows"]) == 2 * turns(FFNShape())
    for row in result["rows"]:
        for spread in (row["milliseconds"], row["ratio"], row["efficiency"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"] < math.inf
        assert row["efficiency"]["median"] == pytest.approx(row["share"] / row["ratio"]["median"], rel=1e-4)
        assert row["k"] != DENSE or (row["share"], row["ratio"]["median"]) == (1, 1)


def test_wrong_option_is_refused() -> None:
    assert CliRunner().invoke(main, ["--tokens", "0"]).exit_code == 2


def test_a_folder_that_is_not_there_is_refused_before_measuring(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--json", str(tmp_path / "absent" / "result.json")])
    assert done.exit_code == 2 and "is no folder" in done.output
