"""What the table of budgets must satisfy by itself. Whether it agrees with the curve is checked where it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from adaptrt.runtime.bundle.curve_validation import MAX_CURVE_POINTS, MAX_FRACTION, check_knob_value
from adaptrt.runtime.bundle.expectations import expect, expect_finite
from adaptrt.runtime.bundle.schema import BudgetPoint, BudgetRow, Bundle, Knob

MAX_ROWS = 4 * MAX_CURVE_POINTS


def check_budget_table(bundle: Bundle) -> None:
    """Check the rows of soft and hard budgets, and the entry for everything.

    Raises:
        Invalid: names the first row that was wrong, what was expected and what to do.
    """
    table = bundle.budget_table
    if table is None:
        return
    expect(bool(bundle.curve), "budget_table: without points of the curve", "none")
    knobs = {knob.name: knob for knob in bundle.knobs}
    for name, rows, hard in (("soft", table.soft, False), ("hard", table.hard, True)):
        points = sum(point.hard is hard for point in bundle.curve)
        least, most = (1, MAX_ROWS) if points else (0, 0)
        expect(
            least <= len(rows) <= most,
            f"budget_table {name}: {len(rows)} rows with {points} {name} points",
            f"{least} to {most}",
        )
        _check_rows(f"budget_table {name}", rows, knobs)
    _check_point("budget_table full", table.full, knobs)


def _check_rows(where: str, rows: Sequence[BudgetRow], knobs: Mapping[str, Knob]) -> None:
    for number, row in enumerate(rows):
        place = f"{where}[{number}]"
        _check_point(place, row, knobs)
        fine = 0 <= row.fraction <= MAX_FRACTION
        expect(fine, f"{place}: fraction {row.fraction}", f"0 to {MAX_FRACTION:g}")
        if number == 0:
            expect(row.fraction == 0, f"{place}: fraction {row.fraction}", "0 in the first row")
        else:
            fine = row.work <= row.fraction
            expect(fine, f"{place}: work {row.work} from a share of {row.fraction}", "at most that share")
        if row.to is not None:
            _check_point(f"{place} to", row.to, knobs)
            fine = row.work < row.to.work and number + 1 < len(rows)
            expect(
                fine, f"{place}: a line from {row.work} to {row.to.work}", "more work at its end, and a row behind it"
            )
    for number, (before, row) in enumerate(pairwise(rows)):
        place = f"{where}[{number + 1}]: fraction {row.fraction}"
        expect(before.fraction < row.fraction, place, f"more than the {before.fraction} of the row before")
        if before.to is not None:
            expect(row.fraction <= before.to.work, place, f"at most {before.to.work}, where the line before it ends")


def _check_point(where: str, point: BudgetPoint | BudgetRow, knobs: Mapping[str, Knob]) -> None:
    fine = 0 <= point.work <= MAX_FRACTION
    expect(fine, f"{where}: work {point.work}", f"0 to {MAX_FRACTION:g}")
    expect_finite(f"{where} quality", [point.quality])
    expect(point.knobs.keys() == knobs.keys(), f"{where}: knobs {sorted(point.knobs)[:10]}", f"exactly {sorted(knobs)}")
    for name, value in point.knobs.items():
        check_knob_value(f"{where}: {name}", value, knobs[name])
