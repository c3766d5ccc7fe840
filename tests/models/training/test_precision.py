from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adaptrt.models.training import precision as module
from adaptrt.models.training.phase import CheckpointError
from adaptrt.models.training.precision import (
    CHOICE_FILE,
    PrecisionChoice,
    Step,
    choose_precision,
    keep_choice,
    linear_step,
    measure_precision,
    precision_of_this_machine,
)
from adaptrt.models.training.recipe import RECIPE_FILE

HERE = PrecisionChoice("bfloat16", "2.2 times as fast as float32 here", 2.2)


def steps(**results: Callable[[], tuple[Tensor, ...]]) -> Callable[[str], Step]:
    """A step of each precision that gives ones where no other result is named."""

    def step_in(precision: str) -> Step:
        def ones() -> tuple[Tensor, ...]:
            return (torch.ones(4),)

        step = results.get(precision, ones)
        step.__dict__["precision"] = precision
        return step

    return step_in


def times(float32: float | list[float], bfloat16: float | list[float]) -> Callable[[Step], float]:
    """A timer that runs nothing: seconds of each precision, in turn where there are several."""
    given = {"float32": float32, "bfloat16": bfloat16}
    asked = dict.fromkeys(given, 0)

    def timer(step: Step) -> float:
        name = step.__dict__["precision"]
        seconds = given[name]
        asked[name] += 1
        return seconds[(asked[name] - 1) % len(seconds)] if isinstance(seconds, list) else seconds

    return timer


@pytest.mark.parametrize(
    ("float32", "bfloat16", "precision", "reason", "speedup"),
    [
        (0.011, 0.005, "bfloat16", "2.2 times as fast as float32 here", 2.2),
        (0.006, 0.005, "bfloat16", "1.2 times as fast as float32 here", 1.2),
        (0.00595, 0.005, "float32", "bfloat16 is 1.19 times as fast here, less than 1.2", 1.19),
        (0.005, 0.005, "float32", "bfloat16 is 1.00 times as fast here, less than 1.2", 1.0),
        (0.005, 0.02, "float32", "bfloat16 is 0.25 times as fast here, less than 1.2", 0.25),
    ],
)
def test_bfloat16_where_it_is_clearly_faster(
    float32: float, bfloat16: float, precision: str, reason: str, speedup: float
) -> None:
    assert measure_precision(steps(), times(float32, bfloat16)) == PrecisionChoice(precision, reason, speedup)


def test_a_few_turns_that_took_long_decide_nothing() -> None:
    slow_at_times = times([0.004, 0.004, 0.9], [0.002, 0.5, 0.002])
    assert measure_precision(steps(), slow_at_times).speedup == 2.0


def test_precisions_take_turns_and_a_slow_machine_takes_fewer() -> None:
    for seconds, turns in ((0.001, 9), (0.02, 4), (5.0, 3)):
        seen: list[str] = []

        def timer(step: Step, seconds: float = seconds, seen: list[str] = seen) -> float:
            seen.append(step.__dict__["precision"])
            return seconds

        measure_precision(steps(), timer)
        assert seen == ["float32", "bfloat16"] * turns


@pytest.mark.parametrize("wrong", [torch.tensor([1.0, 1.0, 1.0, 1.1]), torch.tensor([1.0, 1.0, 1.0, float("nan")])])
def test_wrong_products_are_not_trained_with(wrong: Tensor) -> None:
    choice = measure_precision(steps(bfloat16=lambda: (wrong,)), times(4.0, 1.0))
    assert choice == PrecisionChoice("float32", "bfloat16 computes wrong products here")


def test_a_product_that_rounds_as_bfloat16_does_is_right() -> None:
    exact = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    made = steps(float32=lambda: (exact,), bfloat16=lambda: (exact.bfloat16(),))
    assert measure_precision(made, times(4.0, 1.0)).precision == "bfloat16"


def test_a_product_that_fails_is_not_trained_with() -> None:
    def fails() -> tuple[Tensor, ...]:
        raise RuntimeError("could not create a primitive\nat line 7")

    threads = torch.get_num_threads()
    choice = measure_precision(steps(bfloat16=fails), times(4.0, 1.0))
    assert choice == PrecisionChoice("float32", "bfloat16 fails here (could not create a primitive)")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_clock_without_times_decides_for_float32(seconds: float) -> None:
    expected = PrecisionChoice("float32", "the clock gives no times here")
    assert measure_precision(steps(), times(4.0, seconds)) == expected
    assert measure_precision(steps(), times([4.0, 4.0, seconds], 1.0)) == expected


def test_the_real_step_computes_in_its_precision_and_both_agree() -> None:
    exact, computed = linear_step("float32")(), linear_step("bfloat16")()
    assert [result.shape for result in exact] == [(512, 768), (512, 192), (768, 192), (768,)]
    assert (exact[0].dtype, computed[0].dtype) == (torch.float32, torch.bfloat16)
    assert not torch.equal(exact[0], computed[0].float())
    assert measure_precision(timer=lambda step: 1.0 if step()[0].dtype == torch.bfloat16 else 2.0).speedup == 2.0


def test_the_real_measurement_leaves_threads_and_randomness_as_they_were() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    choice = measure_precision()
    assert choice.precision in ("float32", "bfloat16") and choice.reason
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_this_machine_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([HERE, PrecisionChoice("float32", "another time")])
    monkeypatch.setattr(module, "measure_precision", lambda: next(answers))
    precision_of_this_machine.cache_clear()
    try:
        assert choose_precision("auto") == choose_precision("auto") == HERE
    finally:
        precision_of_this_machine.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is best at bfloat16."""
    monkeypatch.setattr(module, "precision_of_this_machine", lambda: HERE)


def begin(folder: Path, choice: PrecisionChoice) -> None:
    """Leave what a training that began leaves."""
    keep_choice(choice, folder)
    (folder / RECIPE_FILE).write_text(json.dumps({"precision": choice.precision}))


@pytest.mark.usefixtures("measured")
def test_what_is_asked_for_is_taken(tmp_path: Path) -> None:
    assert choose_precision("float32", tmp_path) == PrecisionChoice("float32", "it was asked for")
    assert choose_precision("bfloat16") == PrecisionChoice("bfloat16", "it was asked for")
    assert choose_precision("auto", tmp_path / "absent", tmp_path) == HERE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("measured")
def test_a_training_goes_on_in_the_precision_it_began_with(tmp_path: Path) -> None:
    begin(tmp_path / "slow", PrecisionChoice("float32", "bfloat16 is 1.00 times as fast here", 1.0))
    expected = PrecisionChoice("float32", "this training began in it", 1.0)
    assert choose_precision("auto", tmp_path / "absent", tmp_path / "slow", tmp_path) == expected
    keep_choice(expected, tmp_path / "slow")
    assert "1.00 times" in (tmp_path / "slow" / CHOICE_FILE).read_text()
    begin(tmp_path / "fast", HERE)
    assert choose_precision("bfloat16", tmp_path / "fast") == PrecisionChoice("bfloat16", "it was asked for", 2.2)
    assert choose_precision("auto", tmp_path / "slow", tmp_path / "fast").precision == "float32"


@pytest.mark.usefixtures("measured")
def test_a_training_does_not_change_its_precision(tmp_path: Path) -> None:
    begin(tmp_path, HERE)
    with pytest.raises(CheckpointError, match="got precision float32, expected bfloat16, .*; go on in that, or"):
        keep_choice(choose_precision("float32", tmp_path), tmp_path)


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"precision": "bfloat16", "speedup": "x"}'])
def test_damaged_records_decide_nothing(tmp_path: Path, content: bytes) -> None:
    begin(tmp_path, HERE)
    (tmp_path / CHOICE_FILE).write_bytes(content)
    assert choose_precision("auto", tmp_path) == PrecisionChoice("bfloat16", "this training began in it")
    for record in (content.replace(b"bfloat16", b"float8"), b"[" * 100_000):
        (tmp_path / RECIPE_FILE).write_bytes(record)
        assert choose_precision("auto", tmp_path) == HERE
        keep_choice(HERE, tmp_path)  # whoever reads the recipe refuses it
        assert (tmp_path / CHOICE_FILE).read_bytes() == content


@pytest.mark.usefixtures("measured")
def test_a_choice_of_no_training_is_replaced(tmp_path: Path) -> None:
    keep_choice(HERE, tmp_path)
    keep_choice(choose_precision("float32", tmp_path), tmp_path)
    kept = json.loads((tmp_path / CHOICE_FILE).read_text())
    assert kept == {"precision": "float32", "reason": "it was asked for", "speedup": None}
