"""The search: chains with one rule each, bounded passes, samples only where they beat noise, resumable."""

import itertools
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from adaptrt.export.calibration.combinations import Point, passes_needed, search
from adaptrt.export.calibration.combinations import _worth_keeping as worth_keeping
from adaptrt.export.calibration.evaluations import Evaluations
from adaptrt.export.calibration.journal import Journal
from adaptrt.export.calibration.stage_records import Outcome
from adaptrt.export.errors import CalibrationError
from adaptrt.runtime.bundle.bundle_file import DecisionSpec, Knob
from tests.export.fake_bundle import ALL, CAPACITY, EXITS, KEEP, PRICE, TOKEN_PRICE, FakeModel, fake_data

BUNDLES = [
    ((PRICE, CAPACITY), {"price", "hard"}),
    ((PRICE, EXITS), {"price", "acm", "exits", "exits by share"}),
    ((PRICE, TOKEN_PRICE), {"price", "acm", "tokens"}),
    (ALL, {"price", "acm", "tokens", "exits", "exits by share", "hard"}),
    ((EXITS,), {"exits", "exits by share"}),
    ((KEEP,), {"keep", "hard"}),
    ((PRICE, TOKEN_PRICE, KEEP, EXITS), {"price", "acm", "tokens", "exits", "exits by share", "hard"}),
]
each_bundle = pytest.mark.parametrize(
    ("knobs", "settings"), BUNDLES, ids=["+".join(knob.name for knob in knobs) for knobs, _ in BUNDLES]
)


def run(*knobs: Knob, points: int = 7, limit: int = 60, samples: int = 300) -> tuple[list[Point], Evaluations]:
    evaluations = Evaluations(FakeModel(*knobs), fake_data(samples), limit=limit, journal=Journal(None, ""))
    return search(evaluations, points=points), evaluations


def chains(points: list[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault("sample" if point.setting.startswith("sample") else point.setting, []).append(point)
    return found


@each_bundle
def test_every_family_has_its_chain(knobs: tuple[Knob, ...], settings: set[str]) -> None:
    points, evaluations = run(*knobs)
    found = chains(points)
    assert found.keys() - {"sample"} == settings
    assert evaluations.done <= evaluations.limit
    for setting, chain in found.items():
        assert len(chain) <= 8 or setting == "sample"
        assert all(point.hard == (setting == "hard") for point in chain)
        costs = [point.outcome.cost for point in chain]
        if setting == "sample":
            assert [point.setting for point in chain] == [f"sample {number + 1}" for number in range(len(chain))]
        assert costs == sorted(costs)  # the fake is without noise
        if setting != "sample":
            assert len(chain) >= 2 and chain[-1].outcome.cost > 0.9  # everything, in the end


@pytest.mark.parametrize("knobs", [knobs for knobs, _ in BUNDLES])
def test_points_say_how_they_are_run_again(knobs: tuple[Knob, ...]) -> None:
    points, evaluations = run(*knobs, points=4)
    model, split = evaluations.model, evaluations.data.calibration
    for point in points:
        given = point.knobs
        thresholds = given.pop("exit_thresholds", None)
        stages = model.run_stages({"x": split.inputs}, knobs=given)
        exits = np.full(len(split), len(stages) - 1)
        if thresholds is not None:
            exits = np.where(stages[0]["confidence"] > np.float32(thresholds[0]), 0, 1)
        spent = np.stack([stage["macs_fraction"] for stage in stages])[exits, np.arange(len(split))]
        assert point.outcome.cost == pytest.approx(spent.mean(), abs=1e-6)


def test_families_alone_leave_the_others_off() -> None:
    points, evaluations = run(*ALL)
    found = chains(points)
    assert all(point.knobs.keys() == {"price", "exit_thresholds"} for point in found["price"])
    assert all(point.knobs.keys() == {"price", "token_price"} for point in found["acm"] + found["tokens"])
    assert {point.knobs["token_price"] for point in found["acm"]} == {0.0}
    assert {point.knobs["price"] for point in found["tokens"]} == {0.0}
    for point in found["exits"] + found["exits by share"]:
        assert (point.knobs["price"], point.knobs["token_price"]) == (0.0, 0.0)
    for chain in (found["price"], found["exits"], found["exits by share"]):
        confidence = evaluations.calibration(chain[0].passed).confidence[0]
        assert chain[0].thresholds < confidence.min()  # everybody leaves at the first exit
        assert chain[-1].thresholds >= evaluations.calibration(chain[-1].passed).confidence[0].max()
    for chain in (found["price"], found["exits"]):
        assert chain[-1].knobs["exit_thresholds"] == [math.inf]  # whatever confidence comes
    prices = [point.knobs["price"] for point in found["price"]]
    assert prices[0] == 4.0 and prices[-1] == 0.0 and prices == sorted(prices, reverse=True)


class Overthinking(FakeModel):
    """The second head is wrong about what the first is sure of."""

    def _stages(self, x: Any, knobs: Any) -> Any:
        stages, made = super()._stages(x, knobs)
        sure = stages[0]["confidence"] > 0.9
        stages[1]["logits"] = np.where(sure[:, None], 0.3 * stages[0]["logits"], stages[1]["logits"])
        return stages, made


def test_what_going_on_does_not_improve_leaves_at_any_price_but_none() -> None:
    evaluations = Evaluations(Overthinking(PRICE, EXITS), fake_data(300), limit=40, journal=Journal(None, ""))
    found = chains(search(evaluations, points=7))
    for setting in ("price", "exits"):
        free, surest, never = found[setting][-3:]
        assert free.knobs["price"] == never.knobs["price"] == 0.0
        assert free.outcome.loss < never.outcome.loss and free.outcome.cost < never.outcome.cost
        assert surest.outcome.cost == never.outcome.cost
        assert never.knobs["exit_thresholds"] == [math.inf]


def test_between_two_points_of_a_pass_work_is_what_interpolation_says() -> None:
    """Between not leaving where it helps and not leaving at all thresholds move little and work leaps."""
    evaluations = Evaluations(Overthinking(PRICE, EXITS), fake_data(300), limit=40, journal=Journal(None, ""))
    *chain, never = chains(search(evaluations, points=7))["exits"]
    assert never.outcome.cost == chain[-1].outcome.cost
    records = evaluations.calibration(chain[0].passed)
    widest = 1.5 * (chain[-1].outcome.cost - chain[0].outcome.cost) / 6
    for before, after in itertools.pairwise(chain):
        assert before.thresholds is not None and after.thresholds is not None
        halfway = records.outcome((before.thresholds + after.thresholds) / 2)
        assert before.outcome.cost - 1e-9 <= halfway.cost <= after.outcome.cost + 1e-9
        assert 0 < after.outcome.cost - before.outcome.cost < widest + 3 / 300


def test_a_price_of_selections_alone_is_called_so() -> None:
    model = FakeModel(PRICE, EXITS)
    stages = [
        msgspec.structs.replace(stage, decisions=[DecisionSpec("selection", 0, {})]) for stage in model.bundle.stages
    ]
    model.bundle = msgspec.structs.replace(model.bundle, stages=stages)
    evaluations = Evaluations(model, fake_data(50), limit=30, journal=Journal(None, ""))
    assert {"tokens", "price"} <= chains(search(evaluations, points=4)).keys()


@each_bundle
def test_the_limit_is_kept(knobs: tuple[Knob, ...], settings: set[str]) -> None:
    bundle = FakeModel(*knobs).bundle
    least = passes_needed(bundle, 2)
    for limit in range(least, least + 12, 3):
        model = FakeModel(*knobs)
        evaluations = Evaluations(model, fake_data(40), limit=limit, journal=Journal(None, ""))
        assert chains(search(evaluations, points=20)).keys() >= settings
        assert evaluations.done <= limit
    if least > 1:
        with pytest.raises(CalibrationError, match=f"got at most {least - 1} evaluations, expected at least {least}"):
            run(*knobs, limit=least - 1)


def test_passes_that_are_left_are_spent_on_pairs_of_prices() -> None:
    _, few = run(*ALL, limit=passes_needed(FakeModel(*ALL).bundle, 7))
    _, many = run(*ALL, limit=90)
    assert few.done <= few.limit and many.done > 85


def test_samples_beat_every_chain() -> None:
    """In the fake the two prices mean different things, so there is something to find off the common price."""
    points, _ = run(*ALL, limit=80, samples=1000)
    found = chains(points)
    assert found["sample"]
    for point in found["sample"]:
        for setting in ("price", "acm", "tokens", "exits", "exits by share"):
            chain = found[setting]
            costs, qualities = ([getattr(p.outcome, name) for p in chain] for name in ("cost", "quality"))
            if point.outcome.cost >= costs[0]:
                assert point.outcome.quality > np.interp(point.outcome.cost, costs, qualities)


def point(setting: str, cost: float, right: np.ndarray) -> Point:  # type: ignore[type-arg]
    return Point(setting, {}, None, Outcome(cost, 0.0, right))


class TestNoise:
    luck = np.random.default_rng(0).random((2, 1000))
    easy = luck[0] < 0.8
    chain = (point("price", 0.2, easy & (luck[1] < 0.9)), point("price", 0.8, easy))

    def better(self, by: int) -> np.ndarray:  # type: ignore[type-arg]
        """As good as the chain where it is dearest, and right about some more."""
        right = self.easy.copy()
        right[np.flatnonzero(~self.easy)[:by]] = True
        return right

    def kept(self, *candidates: Point) -> list[str]:
        return [own.setting for own in worth_keeping(list(candidates), [self.chain])]

    def test_a_few_more_may_be_luck(self) -> None:
        assert self.kept(point("sample", 0.8, self.better(1))) == []
        assert self.kept(point("sample", 0.8, self.better(60))) == ["sample 1"]

    def test_the_line_between_two_points_is_what_to_beat(self) -> None:
        assert self.kept(point("sample", 0.5, self.easy)) == ["sample 1"]
        assert self.kept(point("sample", 0.795, self.easy)) == []

    def test_only_the_frontier(self) -> None:
        best, beaten = point("sample", 0.5, self.better(80)), point("sample", 0.6, self.better(60))
        assert worth_keeping([beaten, best], [self.chain])[0].outcome is best.outcome
        assert len(self.kept(beaten, best)) == 1 and len(self.kept(best, best)) == 1

    def test_work_that_no_chain_can_do_is_enough(self) -> None:
        assert self.kept(point("sample", 0.1, self.easy & ~self.easy)) == ["sample 1"]

    def test_as_good_is_not_better(self) -> None:
        assert self.kept(*self.chain, point("sample", 0.8, self.easy)) == []


def test_the_same_search_twice() -> None:
    first, second = (run(*ALL, limit=50)[0] for _ in range(2))
    assert [(p.setting, p.knobs, p.outcome.cost, p.outcome.quality) for p in first] == [
        (p.setting, p.knobs, p.outcome.cost, p.outcome.quality) for p in second
    ]


@pytest.mark.parametrize("stop_after", [1, 2000, 9000])
def test_an_interrupted_search_goes_on(tmp_path: Path, stop_after: int) -> None:
    data, path = fake_data(200), tmp_path / "journal"

    def go(model: FakeModel, file: Path | None) -> tuple[list[Point], int]:
        with Journal(file, "key") as journal:
            evaluations = Evaluations(model, data, limit=60, journal=journal)
            return search(evaluations, points=7), evaluations.done

    whole = FakeModel(*ALL)
    expected, done = go(whole, None)
    with pytest.raises(KeyboardInterrupt):
        go(FakeModel(*ALL, stop_after=stop_after), path)
    again = FakeModel(*ALL)
    found, done_again = go(again, path)
    assert [(p.setting, p.knobs, p.outcome.cost, p.outcome.quality, p.outcome.loss) for p in found] == [
        (p.setting, p.knobs, p.outcome.cost, p.outcome.quality, p.outcome.loss) for p in expected
    ]
    assert done_again == done
    assert again.samples <= whole.samples - 200 * (stop_after // 200 - 20)
    last = FakeModel(*ALL, stop_after=10**9)
    go(last, path)
    assert last.samples < whole.samples / 2  # only what is not journalled: means over a few samples


def test_progress_counts_passes() -> None:
    told: list[tuple[str, float]] = []
    with Journal(None, "") as journal:
        evaluations = Evaluations(
            FakeModel(*ALL), fake_data(40), limit=50, journal=journal, progress=lambda *news: told.append(news)
        )
        search(evaluations, points=5)
    shares = [share for _, share in told]
    assert len(told) == evaluations.done and shares == sorted(shares) and shares[-1] <= 0.5
    assert told[0][0] == "calibrating, one price for everything (of 50 passes at most)"
    assert {"acm alone", "tokens alone", "hard budgets", "combinations of prices"} <= {
        what.split(", ")[1].split(" (")[0] for what, _ in told
    }


def test_more_passes_than_the_limit() -> None:
    evaluations = Evaluations(FakeModel(PRICE), fake_data(10), limit=1, journal=Journal(None, ""))
    evaluations.calibration({"price": 0.5})
    evaluations.calibration({"price": 0.5})
    with pytest.raises(CalibrationError, match="more than 1 evaluations"):
        evaluations.calibration({"price": 0.6})


def test_a_followed_price_is_the_same_pass() -> None:
    evaluations = Evaluations(FakeModel(PRICE, TOKEN_PRICE), fake_data(10), limit=9, journal=Journal(None, ""))
    one = evaluations.calibration({"price": 0.5})
    assert evaluations.calibration({"price": 0.5, "token_price": 0.5}) is one
    assert evaluations.calibration({"price": 0.5, "token_price": -0.3}) is one
    assert evaluations.calibration({"price": 0.5, "token_price": 0.0}) is not one
    assert evaluations.done == 2


def test_bundles_that_cannot_be_searched() -> None:
    with pytest.raises(CalibrationError, match="has none of the knobs capacity, .*, expected one"):
        run()
    below = Knob("price", "float32", [1], -32.0, 32.0, -32.0)
    with pytest.raises(CalibrationError, match="got a price from -32 on in a bundle with exits"):
        run(below, EXITS)


def test_prices_of_gates_that_start_below_zero() -> None:
    below = Knob("price", "float32", [1], -32.0, 32.0, -32.0)
    points, _ = run(below, TOKEN_PRICE, limit=40)
    for point in points:
        assert -32 <= point.passed["price"] <= 32 and 0 <= point.passed.get("token_price", 0.0) <= 4  # type: ignore[operator]
