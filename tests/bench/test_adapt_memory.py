"""The memory of adapting is measured on real checkpoints in a process of their own; here on tiny ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptrt.bench import adapt_memory
from adaptrt.bench.adapt_memory import SHAPES, Row, adapt_shape, main, measure
from adaptrt.bench.errors import BenchError

pytestmark = pytest.mark.slow("adapts two networks")


def write_tiny(folder: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    BertForSequenceClassification(config).save_pretrained(folder)


@pytest.mark.exhaustive
def test_every_phase_runs_and_the_most_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "bert-base", dataclasses.replace(SHAPES["bert-base"], write=write_tiny))
    row = adapt_shape("bert-base", tmp_path, 120)
    assert set(row.families) == {"acm", "exits", "pruning"}
    assert 0.2 < row.peak_gib < 8  # torch alone takes that
    assert {path.name for path in (tmp_path / "work").iterdir()} >= {"distil0.pt", "gate2.pt", "joint.pt"}


def test_the_command_keeps_what_the_process_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt_memory, "measure", lambda name, samples: Row(name, samples, ["acm"], 1.5, 6.0))
    file = tmp_path / "memory.json"
    done = CliRunner().invoke(main, ["--samples", "200", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "1.5" in done.output
    assert [row["shape"] for row in json.loads(file.read_text())["rows"]] == list(SHAPES)


def test_a_process_that_fails_is_told_in_one_line() -> None:
    with pytest.raises(BenchError, match="nonsense was not adapted: .*nonsense"):
        measure("nonsense", 100)
