"""From seeds to one result: the best within the same time, its mean and spread, and the sentence that follows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.result_json import write_json
from adaptrt.bench.rivals.result import Entry, RivalComparison
from adaptrt.bench.study.command import tabulate
from adaptrt.bench.study.merging import TIMES, merge_seeds, over, winner
from adaptrt.bench.study.plot import plot_study
from adaptrt.bench.study.result import StudyResult, TimeRow, read_result
from adaptrt.bench.timing.interleave import Spread

DENSE_MS = 4.0


def entry(name: str, network: str, form: str, share: float, quality: float, budget: float | None = None) -> Entry:
    def spread(value: float) -> dict[int, Spread]:
        return {1: Spread(value, value, value)}

    return Entry(
        *(name, network == "adaptive", budget, None, {}, quality, 0.0, spread(share * DENSE_MS), spread(share)),
        network=network,
        form=form,
    )


def comparison(shift: float, **changes: object) -> RivalComparison:
    """A seed whose adaptive int8 is ``shift`` better than in the first."""
    entries = [
        entry("adaptive", "adaptive", "float32", 0.35, 0.85, 0.3),
        entry("adaptive", "adaptive", "float32", 1.1, 0.90, 1.0),
        entry("adaptive int8", "adaptive", "int8", 0.14, 0.86 + shift, 0.3),
        entry("adaptive int8", "adaptive", "int8", 0.24, 0.88 + shift, 0.6),
        entry("adaptive int8", "adaptive", "int8", 0.46, 0.90 + shift, 1.0),
        entry("dense float32", "dense", "float32", 1.0, 0.90),
        entry("dense int8", "dense", "int8", 0.40, 0.899),
        entry("dense int8, quantize_dynamic", "dense", "int8, quantize_dynamic", 0.42, 0.898),
        entry("width 128 int8", "width 128", "int8", 0.22, 0.86),
        entry("width 96 int8", "width 96", "int8", 0.12, 0.84),
        entry("EViT int8", "EViT", "int8", 0.3, 0.87),
    ]
    fields = {
        "name": "combined",
        "metric": "accuracy",
        "samples": 100,
        "data": "fashion",
        "batches": (1,),
        "threads": 1,
        "rounds": {1: 3},
        "entries": tuple(entries),
        "left_out": (),
        "verdicts": {1: "said of it."},
        "machine": {"cpu": "one"},
        "source": {"command": "it"},
        **changes,
    }
    return RivalComparison(**fields)  # type: ignore[arg-type]


@pytest.fixture
def result() -> StudyResult:
    return merge_seeds({0: comparison(0.0), 1: comparison(0.004)}, 0.1, {"combined": {"dense": 8}})


def at(result: StudyResult, share: float) -> TimeRow:
    (row,) = [row for row in result.rows if row.over_dense == share]
    return row


def test_the_best_that_takes_no_longer_counts(result: StudyResult) -> None:
    row = at(result, 0.25)
    assert row.milliseconds == pytest.approx(1.0)
    assert row.quality["adaptive int8"].seeds == pytest.approx([0.88, 0.884])
    assert row.quality["adaptive int8"].mean == pytest.approx(0.882)
    assert row.quality["adaptive int8"].deviation == pytest.approx(0.004 / math.sqrt(2))
    assert row.quality["narrower"].mean == pytest.approx(0.86)  # the better of two widths
    assert not {"dense", "EViT", "adaptive float32"} & row.quality.keys()  # none of them is that fast
    assert row.ahead is not None and row.ahead.seeds == pytest.approx([0.02, 0.024])
    assert row.wins == {"adaptive int8": 2} and winner(row) == "adaptive int8"
    assert at(result, 0.2).quality["narrower"].mean == pytest.approx(0.84)
    assert [row.over_dense for row in result.rows] == [share for share in TIMES if share >= 0.15]


def test_what_everything_running_takes(result: StudyResult) -> None:
    means = {name: measured.mean for name, measured in result.everything.items()}
    assert means == {
        "adaptive over dense float32": pytest.approx(1.1),
        "adaptive int8 over dense int8": pytest.approx(0.46 / 0.40),
        "adaptive int8 over dense int8, quantize_dynamic": pytest.approx(0.46 / 0.42),
    }


def test_the_sentence(result: StudyResult) -> None:
    assert result.verdict == (
        "At batch 1 adaptive pays here between 0.60 and 4.80 ms (mean of 2 seeds), in every seed at 9 of 11 times; "
        "between them it is not ahead at 2."
    )
    alone = merge_seeds({0: comparison(-0.03)}, 1.0, {})
    assert alone.verdict == "At batch 1 it does not pay here (one seed): take dense (1.60 ms, 0.8990)."
    assert alone.rows[0].quality["narrower"].deviation is None


def test_seeds_that_do_not_belong_together() -> None:
    with pytest.raises(BenchError, match="different samples or threads"):
        merge_seeds({0: comparison(0.0), 1: comparison(0.0, samples=50)}, 1.0, {})
    with pytest.raises(BenchError, match="got no seeds"):
        merge_seeds({}, 1.0, {})


def test_no_folder_of_this_machine_is_kept() -> None:
    reason = "width 96 OpenVINO int8: cannot read /tmp/adaptrt-rivals-x/width 96_5_int8.onnx at 1/2"
    (seed,) = merge_seeds({0: comparison(0.0, left_out=(reason,))}, 1.0, {}).seeds
    assert seed.left_out == ["width 96 OpenVINO int8: cannot read width 96_5_int8.onnx at 1/2"]


def test_one_value_has_no_spread() -> None:
    assert over([1.0]).deviation is None and over([1.0, 3.0]).deviation == pytest.approx(math.sqrt(2))


def test_it_survives_its_file_and_is_shown(result: StudyResult, tmp_path: Path) -> None:
    write_json(result, tmp_path / "study.json")
    back = read_result(tmp_path / "study.json")
    assert back.verdict == result.verdict and len(back.rows) == len(result.rows)
    assert back.rows[0].quality["adaptive int8"].mean == pytest.approx(result.rows[0].quality["adaptive int8"].mean)
    plot_study(back, tmp_path / "study.svg")
    assert (tmp_path / "study.svg").read_bytes().startswith(b"<?xml")
    times, everything, *said = tabulate(back).renderables
    assert times.row_count == len(result.rows) and everything.row_count == 3  # type: ignore[union-attr]
    assert said == ["seed 0: said of it.", "seed 1: said of it.", result.verdict]
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BenchError, match=r"x\.json.*expected a result of the study"):
        read_result(tmp_path / "x.json")
