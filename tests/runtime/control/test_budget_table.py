"""Looking a budget up in the table is solving it: knobs, work, quality and whether it is met are the very same."""

from __future__ import annotations

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptrt.runtime import Budget, BundleError, load
from adaptrt.runtime.bundle.bundle_file import (
    BudgetPoint,
    BudgetRow,
    BudgetTable,
    Bundle,
    CurvePoint,
    Dense,
    Knob,
    Stage,
    TensorSpec,
    encode_bundle,
    read_bundle,
)
from adaptrt.runtime.control.budget_rows import budget_table
from adaptrt.runtime.control.budget_table import _neighbour, _rounded, look_up
from adaptrt.runtime.control.operating_point import BudgetSolver
from adaptrt.runtime.control.table_check import check_table

FIXTURES = Path(__file__).parents[1] / "fixtures"
KNOBS = [
    Knob("price", "float32", [1], 0.0, 1.0, 0.0),
    Knob("capacity", "int32", [2], -1.0, 64.0, -1.0),
    Knob("keep", "float16", [1], 0.0, 2.0, 1.0),
    Knob("exit_thresholds", "float32", [2], -math.inf, math.inf, math.inf),
]
DTYPES = {knob.name: knob.dtype for knob in KNOBS}


def bundle(curve):
    return Bundle(
        format_version=2,
        name="test",
        producer="tests",
        inputs=[TensorSpec("x", "float32", ["batch", 4])],
        outputs=[TensorSpec("macs_fraction", "float32", ["batch"])],
        stages=[Stage("model.onnx", "0" * 64)],
        knobs=KNOBS,
        dense=Dense(1000, 10),
        curve=curve,
    )


shares = st.one_of(st.floats(0, 1.3, allow_subnormal=False), st.integers(0, 12).map(lambda n: n / 10))
units = st.one_of(st.floats(0, 1, width=32, allow_subnormal=False), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
thresholds = st.one_of(st.floats(-2, 2, allow_subnormal=False), st.sampled_from([math.inf, 0.5]))
wholes = st.integers(0, 9).map(float)
qualities = st.one_of(st.none(), st.floats(0, 1), st.sampled_from([0.5, 0.75, 0.9]))


@st.composite
def curves(draw):
    """Several chains, points that stand alone, soft and hard, of any knobs, qualities known or not."""
    curve = []
    for number in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["named", "price", "sample"]))
        setting = {"named": f"chain {number}", "price": "", "sample": "sample"}[kind]
        hard, known = draw(st.booleans()), draw(st.booleans())
        capacity = draw(st.booleans())
        rising = draw(st.booleans())
        points = []
        for _ in range(draw(st.integers(1, 6))):
            knobs = {"price": draw(units)}
            if kind != "price":
                knobs["exit_thresholds"] = draw(st.one_of(thresholds, st.lists(thresholds, min_size=2, max_size=2)))
                knobs["keep"] = draw(st.floats(0, 2, width=16))
                if capacity:
                    knobs["capacity"] = draw(st.one_of(wholes, st.lists(wholes, min_size=2, max_size=2)))
            quality = draw(st.floats(0, 1)) if known else draw(qualities)
            points.append((draw(shares), knobs, quality))
        if rising:
            order = sorted(point[0] for point in points)
            points = [(share, *rest[1:]) for share, rest in zip(order, points, strict=True)]
        curve += [
            CurvePoint(knobs, share, quality, True, setting=setting, hard=hard) for share, knobs, quality in points
        ]
    return curve


def near(value):
    """A share and its neighbours among the floats."""
    return [value, math.nextafter(value, 9.0), math.nextafter(value, 0.0)]


def crossings(rows):
    """Where one line comes to be better than another: there two answers are equally good, to rounding."""
    return [row.fraction for before, row in pairwise(rows) if before.to is not None and row.fraction > row.work]


def same_everywhere(of, more):
    table, solver = budget_table(of), BudgetSolver(of)
    assert table is not None
    assert (table.full.knobs, table.full.work) == (solver.everything.knobs, solver.everything.macs_fraction)
    for hard, rows in ((False, table.soft), (True, table.hard)):
        assert bool(rows) == any(point.hard is hard for point in of.curve)
        if not rows:
            continue
        assert rows[0].fraction == 0.0 and all(a.fraction < b.fraction for a, b in pairwise(rows))
        points = [p.macs_fraction for p in of.curve if p.hard is hard]
        tried = {t for row in rows for t in near(row.fraction)} | {t for share in points for t in near(share)}
        tried |= {(a.fraction + b.fraction) / 2 for a, b in pairwise(rows)} | {0.0, 0.5, 1.5, 9.0} | set(more)
        for share in sorted(tried):
            if any(0 < abs(share - crossing) <= 1e-12 for crossing in crossings(rows)):
                continue
            solved, found = solver.solve(Budget.fraction(share, hard=hard)), look_up(rows, share, DTYPES)
            assert found == (solved.knobs, solved.macs_fraction, solved.quality, solved.reachable), share


@settings(max_examples=150)
@given(curves(), st.lists(shares, max_size=40))
def test_the_table_says_what_the_solver_does(curve, more):
    same_everywhere(bundle(curve), more)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(units, shares, st.floats(0, 1)), min_size=1, max_size=25),
    st.lists(shares, max_size=40),
    st.floats(0, 0.05),
)
def test_a_chain_of_prices(points, more, error):
    curve = [
        CurvePoint({"price": price}, share, quality, True, calibration_quality=quality, calibration_error=error)
        for price, share, quality in points
    ]
    same_everywhere(bundle(curve), more)


def test_a_typical_curve_takes_few_rows():
    prices = np.linspace(1, 0, 25)
    curve = [CurvePoint({"price": float(p)}, float(1.1 - p), float(1.0 - p / 2), True) for p in prices]
    table = budget_table(bundle(curve))
    assert len(table.soft) == 25 and table.hard == []
    assert all(row.to is not None for row in table.soft[:-1]) and table.soft[-1].to is None
    assert budget_table(bundle([])) is None


def test_lines_that_cross():
    """A chain that gains faster takes over in the middle of another's line."""
    slow = [CurvePoint({"price": p}, s, q, True, setting="a") for p, s, q in ((1.0, 0.2, 0.5), (0.0, 1.0, 0.7))]
    fast = [CurvePoint({"price": p}, s, q, True, setting="b") for p, s, q in ((0.9, 0.4, 0.4), (0.1, 0.8, 0.9))]
    table = budget_table(bundle([*slow, *fast]))
    assert [(round(row.fraction, 6), row.work, row.to is None) for row in table.soft] == [
        (0.0, 0.2, False), (0.55, 0.4, False), (0.8, 0.8, True),
    ]  # fmt: skip
    same_everywhere(bundle([*slow, *fast]), [0.55, 0.54, 0.56])


def test_chains_that_end_equally_good():
    """A calibrated curve three of whose chains end alike: the last bits of a share decide between them, to and fro."""
    content = json.loads(Path(__file__).with_name("tied_chains.json").read_text())
    knobs = msgspec.convert([{**knob, **_limits(knob)} for knob in content["knobs"]], list[Knob])
    curve = [_point(point) for point in content["curve"]]
    tied = msgspec.structs.replace(bundle(curve), knobs=knobs)
    tied = msgspec.structs.replace(tied, budget_table=budget_table(tied))
    check_table(tied)
    assert tied.budget_table is not None
    first = tied.budget_table.soft[0]
    wrong = [msgspec.structs.replace(first, quality=0.1), *tied.budget_table.soft[1:]]
    with pytest.raises(BundleError, match="a soft budget of"):
        check_table(msgspec.structs.replace(tied, budget_table=BudgetTable(wrong, [], tied.budget_table.full)))


def _limits(knob):
    """Infinity is null in JSON."""
    ends = {"minimum": -math.inf, "maximum": math.inf, "default": math.inf}
    return {name: value for name, value in ends.items() if knob[name] is None}


def _point(point):
    knobs = {
        name: [math.inf if number is None else number for number in value] if isinstance(value, list) else value
        for name, value in point["knobs"].items()
    }
    return msgspec.convert({**point, "knobs": knobs}, CurvePoint)


@pytest.mark.parametrize("name", ["tiny", "exits", "tokens", "texts", "exported"])
def test_fixtures_carry_the_table_of_their_curves(name):
    of = read_bundle(FIXTURES / name)
    assert of.budget_table == budget_table(of)
    dtypes = {knob.name: knob.dtype for knob in of.knobs}
    solver = BudgetSolver(of)
    for share in np.linspace(0, 1.2, 400).tolist():
        solved = solver.solve(Budget.fraction(share))
        found = look_up(of.budget_table.soft, share, dtypes)
        assert found == (solved.knobs, solved.macs_fraction, solved.quality, solved.reachable)


def table(content):
    return content["budget_table"]


WRONG = {
    "no first row": (lambda b: table(b)["soft"].pop(0), r"soft\[0\]: fraction 0\.\d+, expected 0 in the first row"),
    "rows in another order": (lambda b: table(b)["soft"].reverse(), r"soft\[0\]: fraction"),
    "a row twice": (
        lambda b: table(b)["soft"].insert(1, table(b)["soft"][1]), r"soft\[2\]: fraction .*expected more than the",
    ),
    "a line at the end": (lambda b: table(b).update(soft=table(b)["soft"][:3]), "a line from .*and a row behind it"),
    "a row that runs past its line": (
        lambda b: table(b)["soft"][0]["to"].update(work=0.25), r"soft\[1\]: fraction .*expected at most 0\.25, where",
    ),
    "a line that ends where it begins": (
        lambda b: table(b)["soft"][0]["to"].update(work=table(b)["soft"][0]["work"]), "expected more work at its end",
    ),
    "more work than asked for": (lambda b: table(b)["soft"][1].update(work=5), "work 5.0 from a share of"),
    "work that is none": (lambda b: table(b)["full"].update(work=-1), "full: work -1.0, expected 0 to"),
    "a share that is none": (lambda b: table(b)["soft"][-1].update(fraction=1e6), "fraction 1000000.0, expected 0 to"),
    "a knob left out": (lambda b: table(b)["full"]["knobs"].pop("price"), "full: knobs .*expected exactly .*'price'"),
    "an unknown knob": (lambda b: table(b)["full"]["knobs"].update(heat=1), "full: knobs .*'heat'"),
    "a knob out of its limits": (lambda b: table(b)["soft"][0]["knobs"].update(price=10), "price 10.0, expected 0.0"),
    "a fraction of a learner": (
        lambda b: table(b)["hard"][0]["knobs"].update(capacity=[0.5, 1]), "capacity 0.5, expected a whole number",
    ),
    "no hard rows": (lambda b: table(b).update(hard=[]), "budget_table hard: 0 rows with 5 hard points, expected 1"),
    "no table of soft rows": (lambda b: table(b).pop("soft"), "missing required field `soft`"),
    "a table that is none": (lambda b: b.update(budget_table=[]), "Expected `object"),
    "infinity of a price": (lambda b: table(b)["full"]["knobs"].update(price=None), "Expected `float"),
}  # fmt: skip


@pytest.fixture
def hard_exits(tmp_path):
    """The bundle with hard points, its soft ones a chain of prices whose quality rises."""
    folder = Path(shutil.copytree(FIXTURES / "tokens", tmp_path / "tokens"))
    of = read_bundle(folder)
    knobs = [msgspec.structs.replace(k, minimum=0.0) if k.name == "price" else k for k in of.knobs]
    curve = [
        msgspec.structs.replace(p, knobs={**p.knobs, "price": max(p.knobs.get("price", 0.0), 0.0)}) for p in of.curve
    ]
    of = msgspec.structs.replace(of, knobs=knobs, curve=[*curve])
    knobs = [msgspec.structs.replace(k, maximum=9.0) if k.name == "price" else k for k in of.knobs]
    of = msgspec.structs.replace(of, knobs=knobs)
    of = msgspec.structs.replace(of, budget_table=budget_table(of))
    (folder / "bundle.json").write_bytes(encode_bundle(of))
    return folder


@pytest.mark.parametrize("change,match", WRONG.values(), ids=WRONG)
def test_wrong_tables(hard_exits, edit, change, match):
    edit(hard_exits, change)
    with pytest.raises(BundleError, match=match) as caught:
        read_bundle(hard_exits)
    assert "\n" not in str(caught.value)


CONTRADICTIONS = {
    "another price": lambda b: table(b)["soft"][1]["knobs"].update(price=0.123),
    "another far end": lambda b: table(b)["soft"][0]["to"]["knobs"].update(price=0.0),
    "another work": lambda b: table(b)["soft"][-1].update(work=table(b)["soft"][-1]["work"] - 1e-6),
    "another quality": lambda b: table(b)["soft"][-1].update(quality=0.123),
    "a row too late": lambda b: table(b)["soft"][-1].update(fraction=table(b)["soft"][-1]["fraction"] + 1e-7),
    "a row left out": lambda b: table(b)["soft"].pop(),
    "a line that is a step": lambda b: table(b)["soft"][0].pop("to"),
    "everything with less": lambda b: table(b)["full"]["knobs"].update(price=1.0),
    "everything for less": lambda b: table(b)["full"].update(work=0.5),
    "hard rows of other knobs": lambda b: table(b)["hard"][-1]["knobs"].update(capacity=[0, 0]),
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_table_that_contradicts_the_curve(hard_exits, edit, change):
    assert load(hard_exits, threads=1)
    edit(hard_exits, change)
    assert read_bundle(hard_exits)
    with pytest.raises(BundleError, match=r"'tokens': budget_table has another answer to .* than the curve") as caught:
        load(hard_exits)
    assert "\n" not in str(caught.value)


def test_a_table_without_a_curve(hard_exits, edit):
    written = json.loads((hard_exits / "bundle.json").read_text())["budget_table"]
    edit(hard_exits, lambda b: b.update(curve=[]))
    edit(hard_exits, lambda b: b.update(budget_table=written))
    with pytest.raises(BundleError, match="budget_table: without points of the curve, expected none"):
        read_bundle(hard_exits)


def test_thousands_of_chains_are_checked_in_part():
    """A bundle from somewhere else does not keep the loader busy for minutes."""
    points = [({"price": 0.5, "keep": n / 4096}, n / 4096) for n in range(4000)]
    curve = [CurvePoint(knobs, share, share, True) for knobs, share in points]
    row = BudgetRow(0.0, 0.0, 0.0, {knob.name: curve[0].knobs.get(knob.name, knob.default) for knob in KNOBS})
    full = BudgetPoint(3999 / 4096, 3999 / 4096, {knob.name: knob.default for knob in KNOBS})
    of = msgspec.structs.replace(bundle(curve), budget_table=BudgetTable([row], [], full))
    with pytest.raises(BundleError, match="another answer"):
        check_table(of)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@given(st.floats(-4, 4), st.floats(-4, 4))
def test_floats_of_a_dtype(dtype, value, towards):
    kind = np.dtype(dtype).type
    start, end = _rounded(value, dtype), _rounded(towards, dtype)
    assert (start, end) == (float(kind(value)), float(kind(towards)))
    assert _neighbour(start, end, dtype) == float(np.nextafter(kind(start), kind(end)))
