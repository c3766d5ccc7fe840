/**
 * What the table of budgets must satisfy by itself. Whether it agrees with the curve takes what solves curves, which
 * this runtime has not: the program that wrote the bundle is trusted to have asked it.
 */

import { float, general } from "../message_text.js";
import { checkKnobValue, listedNames, MAX_CURVE_POINTS, MAX_FRACTION } from "./curve_validation.js";
import { expect, expectFinite, short } from "./expectations.js";
import type { BudgetPoint, BudgetRow, Bundle, Knob } from "./schema.js";

const MAX_ROWS = 4 * MAX_CURVE_POINTS;

type KnobsByName = ReadonlyMap<string, Knob>;

/** Check the rows of soft and hard budgets, and the entry for everything. */
export function checkBudgetTable(bundle: Bundle): void {
  const table = bundle.budget_table;
  if (table === null) return;
  expect(
    bundle.curve.length > 0,
    () => "budget_table: without points of the curve",
    () => "none",
  );
  const knobs = new Map(bundle.knobs.map((knob) => [knob.name, knob]));
  for (const [name, rows, hard] of [
    ["soft", table.soft, false],
    ["hard", table.hard, true],
  ] as const) {
    const points = bundle.curve.filter((point) => point.hard === hard).length;
    const [least, most] = points > 0 ? [1, MAX_ROWS] : [0, 0];
    expect(
      least <= rows.length && rows.length <= most,
      () => `budget_table ${name}: ${rows.length} rows with ${points} ${name} points`,
      () => `${least} to ${most}`,
    );
    checkRows(`budget_table ${name}`, rows, knobs);
  }
  checkPoint("budget_table full", table.full, knobs);
}

function checkRows(where: string, rows: readonly BudgetRow[], knobs: KnobsByName): void {
  for (const [number, row] of rows.entries()) {
    const place = `${where}[${number}]`;
    checkPoint(place, row, knobs);
    const within = 0 <= row.fraction && row.fraction <= MAX_FRACTION;
    expect(
      within,
      () => `${place}: fraction ${float(row.fraction)}`,
      () => `0 to ${general(MAX_FRACTION)}`,
    );
    if (number === 0) {
      expect(
        row.fraction === 0,
        () => `${place}: fraction ${float(row.fraction)}`,
        () => "0 in the first row",
      );
    } else {
      const got = (): string => `${place}: work ${float(row.work)} from a share of ${float(row.fraction)}`;
      expect(row.work <= row.fraction, got, () => "at most that share");
    }
    const { to } = row;
    if (to !== null) {
      checkPoint(`${place} to`, to, knobs);
      expect(
        row.work < to.work && number + 1 < rows.length,
        () => `${place}: a line from ${float(row.work)} to ${float(to.work)}`,
        () => "more work at its end, and a row behind it",
      );
    }
  }
  for (const [number, row] of rows.entries()) {
    const before = rows[number - 1];
    if (before === undefined) continue;
    const place = (): string => `${where}[${number}]: fraction ${float(row.fraction)}`;
    expect(before.fraction < row.fraction, place, () => `more than the ${float(before.fraction)} of the row before`);
    const end = before.to?.work;
    if (end !== undefined) {
      expect(row.fraction <= end, place, () => `at most ${float(end)}, where the line before it ends`);
    }
  }
}

function checkPoint(where: string, point: BudgetPoint | BudgetRow, knobs: KnobsByName): void {
  const fine = 0 <= point.work && point.work <= MAX_FRACTION;
  expect(
    fine,
    () => `${where}: work ${float(point.work)}`,
    () => `0 to ${general(MAX_FRACTION)}`,
  );
  expectFinite(`${where} quality`, [point.quality]);
  const names = Object.keys(point.knobs);
  expect(
    names.length === knobs.size && names.every((name) => knobs.has(name)),
    () => `${where}: knobs [${names.sort().slice(0, 10).map(short).join(", ")}]`,
    () => `exactly ${listedNames(knobs.keys())}`,
  );
  for (const name of names) checkKnobValue(`${where}: ${name}`, point.knobs[name]!, knobs.get(name)!);
}
