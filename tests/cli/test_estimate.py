from __future__ import annotations

import dataclasses
import importlib
import json
import tempfile

import pytest

from adaptrt.bench.timing.estimate_result import FLOAT32, INT8, Estimate, EstimateRow, Rival, advise, share_at
from adaptrt.bench.timing.interleave import Spread
from adaptrt.cli.estimate import estimate_table
from tests.models.adapters.pretrained.tiny_models import saved

QUICK = ["--batch", 2, "--seconds", 1, "--length", 12]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    saved(folder, "bert", "BertForSequenceClassification", num_hidden_layers=2)
    return folder


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where temporary files go."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.slow("traces an adaptive network and the dense one, starts processes")
def test_json(cli, tiny, scratch, tmp_path):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "p.svg"
    result = cli("estimate", tiny, *QUICK, "--families", "exits", "--plot", picture, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report.keys() >= {"model", "tokens", "threads", "batches", "rounds", "rivals", "rows", "advice", "machine"}
    assert report["model"] == "tiny" and report["tokens"] == 12 and report["batches"] == [2]
    names = [rival["name"] for rival in report["rivals"]]
    assert names[:2] == [FLOAT32, INT8]
    assert report["rivals"][0]["over_dense"]["2"]["median"] == 1.0
    wanted = [1.0, 0.75, 0.5, 0.35, 0.25]
    assert [(row["precision"], row["wanted"]) for row in report["rows"]] == [
        *(("float32", share) for share in wanted),
        *(("int8", share) for share in wanted),
    ]
    assert [row["share"] for row in report["rows"]][1:5] == [row["share"] for row in report["rows"]][6:]
    # A full budget runs the dense model's graph in float32, and the stages, which cost a little more, in int8.
    full, *less = report["rows"]
    assert full["by_dense"] and not any(row["by_dense"] for row in less)
    assert full["share"] == 1.0 < less[4]["share"] < 1.1
    assert full["latency_ms"] == report["rivals"][0]["latency_ms"] and full["over_dense"]["2"]["median"] == 1.0
    assert less[4]["latency_ms"]["2"]["median"] != full["latency_ms"]["2"]["median"]
    for row in report["rows"]:
        assert row["families"] == ["exits"]
        assert row["reachable"] == (abs(row["share"] - row["wanted"]) <= 0.05)
        if row["latency_ms"]:
            spread = row["latency_ms"]["2"]
            assert 0 < spread["low"] <= spread["median"] <= spread["high"]
            assert row["over_dense"]["2"]["median"] > 0 and row["over_int8"]["2"] > 0
    assert picture.read_bytes().lstrip().startswith(b"<?xml")
    assert not list(scratch.iterdir())


@pytest.mark.slow("traces an adaptive network and the dense one, starts processes")
def test_table_of_a_network_of_ours(cli, model_folder, scratch):
    result = cli("estimate", model_folder, "--families", "acm", "--batch", 1, "--seconds", 1)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    shares = ["100%", "75%", "50%", "35%", "25%"]
    assert [line[1] for line in lines if line[:1] == ["acm"] and line[1] != "in"] == shares
    assert [line[3] for line in lines if line[:3] == ["acm", "in", "int8"]] == shares
    assert ["dense", "float32"] in [line[:2] for line in lines] and "batch 1, ms" in result.stdout
    assert "^" not in result.stdout  # its own stages are trained for full budgets
    assert "measuring batch 1 ..." in result.stderr
    assert not list(scratch.iterdir())


def test_interrupted(cli, tiny, scratch, monkeypatch):
    module = importlib.import_module("adaptrt.export.pretrained.estimate")

    def interrupt(*_args, **_settings):
        assert list(scratch.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "trace_stages", interrupt)
    result = cli("estimate", tiny, *QUICK)
    assert result.exit_code == 130 and result.stderr.endswith("interrupted: nothing was written\n")
    assert not list(scratch.iterdir())


def test_refused(refused, tiny, tmp_path, scratch):
    assert "expected a folder" in refused("estimate", tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused("estimate", tmp_path / "empty")
    assert "expected 2 to 40" in refused("estimate", tiny, "--length", 41)
    assert "acm, exits, tokens" in refused("estimate", tiny, "--families", "merging")
    assert "acm,exits,tokens" in refused("estimate", tiny, "--families", ",")
    assert "--seconds" in refused("estimate", tiny, "--seconds", "nan")
    assert "--batch" in refused("estimate", tiny, "--batch", 0)
    assert ".png" in refused("estimate", tiny, "--plot", tmp_path / "x.doc")
    assert not list(scratch.iterdir())


def spread(value):
    return Spread(value, value, value)


def rival(name, target=None, **ratios):
    of_batch = {int(batch[1:]): spread(ratio) for batch, ratio in ratios.items()}
    return Rival(name, "engine 1.0", {batch: s.scaled(10) for batch, s in of_batch.items()}, of_batch, target)


def rows(name, shares, **times):
    made = []
    for number, share in enumerate(shares):
        over = {int(batch[1:]): spread(of_batch[number]) for batch, of_batch in times.items()}
        made.append(EstimateRow((name,), share, share, True, {b: s.scaled(10) for b, s in over.items()}, over, {}))
    return made


SHARES = (1.0, 0.75, 0.5, 0.25)
DENSE = rival(FLOAT32, b1=1.0, b16=1.0)


def test_where_adapting_pays_nothing_is_said():
    assert advise([DENSE], rows("acm", SHARES, b1=SHARES), [1]) == ()


def test_int8_beats_the_larger_budgets():
    static = [DENSE, rival(INT8, b1=0.4)]
    said = advise(static, rows("acm", SHARES, b1=(1.0, 0.8, 0.5, 0.3)), [1])
    assert said == (
        "At batch 1 int8 of the dense model (0.40 of the time of float32) is faster than every budget of acm above "
        "38%.",
    )


def test_a_static_model_beats_everything():
    families = [*rows("acm", SHARES, b1=SHARES), *rows("exits", SHARES, b1=SHARES)]
    said = advise([DENSE, rival(INT8, b1=0.2)], families, [1])
    assert len(said) == 1 and "int8 of the dense model (0.20" in said[0] and "adapting would not pay" in said[0]
    said = advise([DENSE, rival(INT8, b1=0.5), rival("dense Engine", "engine", b1=0.2)], families, [1])
    assert len(said) == 1 and "dense model on Engine (0.20" in said[0] and "--target engine" in said[0]


def test_one_family_is_beaten_and_another_is_not():
    static = [DENSE, rival(INT8, b1=0.4)]
    said = advise(static, [*rows("acm", SHARES, b1=(1.0, 0.9, 0.7, 0.5)), *rows("exits", SHARES, b1=(0.3,) * 4)], [1])
    assert said[0] == (
        "At batch 1 int8 of the dense model (0.40 of the time of float32) is faster than every budget of acm, and "
        "slower than every budget of exits."
    )
    said = advise(static, rows("exits", SHARES, b1=(0.3,) * 4), [1])
    assert said[0].endswith("(0.40 of the time of float32) is slower than every budget of exits.")
    both = [*rows("acm", SHARES, b1=SHARES), *rows("tokens", SHARES, b1=(1.0, 0.9, 0.7, 0.5))]
    said = advise(static, both, [1])
    assert said[0].endswith(" is faster than every budget of acm above 40% and of tokens.")


def test_a_larger_batch_is_recommended():
    said = advise([DENSE], rows("acm", SHARES, b1=(1.0, 1.0, 0.98, 0.97), b16=SHARES), [1, 16])
    assert said == (
        "At batch 1 acm would not pay: at 25% of the work a call takes 0.97 of the dense time; at batch 16 it takes "
        "0.25.",
    )
    said = advise([DENSE], rows("acm", SHARES, b1=(1.0, 0.9, 0.7, 0.6), b16=(1.0, 0.9, 0.7, 0.6)), [1, 16])
    assert len(said) == 2 and all("falls by less than the work" in sentence for sentence in said)
    assert "it takes" not in said[0]


def test_the_row_that_the_dense_model_answers_is_marked():
    made = [EstimateRow(("acm",), 1.0, 1.0, True, {1: spread(10.0)}, {1: spread(1.0)}, {}, by_dense=True)]
    made += rows("acm", (0.5,), b1=(0.6,))
    result = Estimate("m", "t", 128, True, 1, (1,), 1, {1: 3}, (DENSE,), tuple(made), (), (), 1.0, {}, {})
    table = estimate_table(result)
    assert list(table.columns[2].cells) == ["-", "100.0% ^", "50.0%"]
    assert "^: a finished bundle runs the dense model's graph there" in str(table.caption)
    without = estimate_table(dataclasses.replace(result, rows=tuple(made[1:])))
    assert "^" not in str(without.caption)


def test_share_at():
    measured = rows("acm", SHARES, b1=(1.0, 0.8, 0.5, 0.3))
    assert share_at(measured, 1, 0.4) == pytest.approx(0.375)
    assert share_at(measured, 1, 0.2) is None
    assert share_at(measured, 1, 2.0) == 1.0
