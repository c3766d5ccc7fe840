"""All families together are measured on the bundle that an export makes, beside every static form that is here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from adaptrt import AdaptrtError
from adaptrt.bench import all_families
from adaptrt.bench.all_families import SHAPES, Row, best_static, dense_network, main, measure_model
from adaptrt.bench.end_to_end import QUICK
from adaptrt.bench.rivals.static_models import FLOAT32, INT8
from adaptrt.bench.timing.interleave import Spread
from adaptrt.models.folder import LoadedModel
from adaptrt.models.network import Network


def row(model: str, form: str, milliseconds: float, wanted: float | None = None) -> Row:
    time = Spread(milliseconds, milliseconds, milliseconds)
    return Row(model, form, wanted, wanted, (), time, time, None, 1.0)


@pytest.mark.slow("traces a network of three stages and starts eight processes")
def test_every_share_is_timed_in_both_precisions_beside_static_forms() -> None:
    torch.manual_seed(0)
    network = Network.from_config(QUICK).eval()
    told: list[tuple[str, float]] = []
    rows, _ = measure_model(
        LoadedModel("quick", network, network, None),
        threads=1,
        rounds=1,
        shares=(1.0, 0.6),
        tell=lambda what, share: told.append((what, share)),
    )
    assert told[-1] == ("measuring", 1.0)
    static = [each for each in rows if each.wanted is None]
    assert {FLOAT32, INT8} <= {each.form for each in static}
    assert min(each.over_best for each in static) == 1.0
    for form in ("adaptive float32", "adaptive int8"):
        everything, part, seldom = (each for each in rows if each.form == form)
        assert everything.exits == (*(0.0 for _ in everything.exits[1:]), 1.0)
        assert everything.work == pytest.approx(1.0, abs=0.05)
        for each in (part, seldom):
            assert each.over_int8 is not None and each.over_int8 > 0
            assert each.wanted == 0.6 and each.work == pytest.approx(0.6, abs=0.05)
        # By all families alike, and by early exits only where the others cannot save enough.
        assert part.exits[-1] < seldom.exits[-1]


def test_the_best_static_form_is_the_fastest_of_each_network() -> None:
    rows = [row("a", "slow", 3.0), row("a", "fast", 2.0), row("a", "adaptive", 1.0, 0.5), row("b", "only", 9.0)]
    assert best_static(rows) == {"a": "fast", "b": "only"}


def test_the_command_measures_every_model_and_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = []

    def measured(source: LoadedModel, **_anything: object) -> tuple[list[Row], list[str]]:
        named.append(source.name)
        return [row(source.name, FLOAT32, 2.0), row(source.name, "adaptive int8", 1.0, 0.5)], [f"{source.name}: no"]

    monkeypatch.setattr(all_families, "measure_model", measured)
    file = tmp_path / "result.json"
    done = CliRunner().invoke(main, ["fashion", "digits", "--json", str(file)], catch_exceptions=False)
    assert done.exit_code == 0 and "left out: digits: no" in done.output
    assert named == ["fashion", "digits"]
    assert json.loads(file.read_text())["best"] == {"fashion": FLOAT32, "digits": FLOAT32}


def test_a_shape_is_a_checkpoint_with_the_usual_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SHAPES, "vit-s", (32, 2))
    source = dense_network("vit-s", tmp_path)
    assert source.dense is not None and source.dense.config.width == 32 and source.dense.config.depth == 12
    again = dense_network("vit-s", tmp_path)
    first, second = (next(iter(each.dense.state_dict().values())) for each in (source, again))
    assert torch.equal(first, second)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdaptrtError, match="nowhere"):
        dense_network("nowhere", tmp_path)
