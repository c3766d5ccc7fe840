from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from adaptrt.bench import end_to_end
from adaptrt.bench.end_to_end import (
    ADAPTED,
    DENSE,
    INT8,
    QUICK,
    SHAPES,
    SHARES,
    draw_decisions,
    ideal_share,
    main,
    rounds_of,
    turns,
    write_graphs,
)
from adaptrt.models.network import Network

BATCH = 3


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Network]]:
    return write_graphs(QUICK, tmp_path_factory.mktemp("graphs"), lambda _what: None)


@pytest.mark.parametrize("adapted", ADAPTED)
@pytest.mark.parametrize("share", SHARES)
def test_the_ideal_share_is_what_the_graph_counts(
    graphs: dict[str, tuple[Path, Network]], adapted: str, share: float
) -> None:
    file, model = graphs[adapted]
    decisions = draw_decisions(model, BATCH, share, np.random.default_rng(0))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = {f"forced_learners_{index}": k for index, k in enumerate(decisions)}
    feeds["pixels"] = np.zeros((BATCH, 3, QUICK.image_size, QUICK.image_size), np.float32)
    feeds["price"] = np.zeros(1, np.float32)
    (counted,) = session.run(["macs_fraction"], feeds)
    assert ideal_share(model, decisions, BATCH) == pytest.approx(counted.mean(), abs=1e-5)


def test_in_int8_the_same_decisions_give_nearly_the_same(
    graphs: dict[str, tuple[Path, Network]], tmp_path: Path
) -> None:
    small = write_graphs(QUICK, tmp_path, lambda _what: None, INT8)
    assert list(small) == [DENSE, "ffn"]
    pixels = np.random.default_rng(2).random((BATCH, 3, QUICK.image_size, QUICK.image_size), np.float32)
    for name, (file, model) in small.items():
        feeds = {"pixels": pixels}
        if model.adaptive:
            decisions = draw_decisions(model, BATCH, 0.5, np.random.default_rng(0))
            feeds |= {f"forced_learners_{index}": k for index, k in enumerate(decisions)}
            feeds["price"] = np.zeros(1, np.float32)
        given, wanted = (
            onnxruntime.InferenceSession(str(each), providers=["CPUExecutionProvider"]).run(["logits"], feeds)[0]
            for each in (file, graphs[name][0])
        )
        assert file.stat().st_size < 0.6 * graphs[name][0].stat().st_size
        # What quantize_dynamic makes saturates on CPUs without VNNI; ours does nowhere.
        limit = 0.1 if model.adaptive else 1.0
        assert 0 < np.abs(given - wanted).max() < limit * np.abs(wanted).max()


def test_decisions_have_their_share_and_projections_one_learner_at_least(
    graphs: dict[str, tuple[Path, Network]],
) -> None:
    _, model = graphs["ffn+projections"]
    drawn = draw_decisions(model, 64, 0.25, np.random.default_rng(1))
    for gate, k in zip(model.gates(), drawn, strict=True):
        assert k.dtype == np.int32 and k.shape == (64 * QUICK.tokens,) and k.max() <= 4
        assert k.min() == gate.at_least
        if not gate.at_least:
            assert k.mean() / 4 == pytest.approx(0.25, abs=0.03)


def test_shares_of_vit_b_by_hand() -> None:
    """Nothing running leaves embedding, attention, projections, head and gates; all adds the FFNs."""
    config = dataclasses.replace(SHAPES["vit-b"], depth=1, acm=ADAPTED["ffn"])
    with torch.device("meta"):
        model = Network.from_config(config)
    tokens, width = 197, 768
    rest = 196 * 768 * width + 2 * tokens**2 * width + tokens * 4 * width**2 + width * 1000
    ffn, gate = tokens * 2 * width * 3072, tokens * (width * 16 + 16 * 4 + 4 * 4)
    nothing, everything = [np.zeros(tokens, np.int32)], [np.full(tokens, 4, np.int32)]
    assert ideal_share(model, nothing, 1) == pytest.approx((rest + gate) / (rest + ffn), rel=1e-12)
    assert ideal_share(model, everything, 1) == pytest.approx((rest + gate + ffn) / (rest + ffn), rel=1e-12)


def test_rounds() -> None:
    assert (rounds_of(1, None), rounds_of(16, None), rounds_of(4, None), rounds_of(16, 3)) == (25, 7, 9, 3)


def test_command_writes_valid_json(
    graphs: dict[str, tuple[Path, Network]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_to_end, "write_graphs", lambda *_anything: graphs)
    file = tmp_path / "result.json"
    done = CliRunner().invoke(main, ["--quick", "--batch", "2", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "efficiency" in done.output
    result = json.loads(file.read_text())
    assert len(result["rows"]) == turns() and result["rows"][0]["adapted"] == DENSE
    for row in result["rows"]:
        for spread in (row["milliseconds"], row["ratio"], row["efficiency"]):
            assert 0 < spread["low"] <= spread["median"] <= spread["high"] < math.inf
        assert row["efficiency"]["median"] == pytest.approx(row["ideal"] / row["ratio"]["median"], rel=1e-4)
    ideals = [row["ideal"] for row in result["rows"] if row["adapted"] == "ffn"]
    assert ideals == sorted(ideals, reverse=True) and ideals[0] > 1
