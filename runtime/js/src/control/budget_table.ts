/**
 * Looking a budget up in a bundle's table: all that a runtime needs to know of its curve.
 *
 * A row holds from its share of work up to the next row's. Below its own work the budget cannot be met, and it stands
 * as it is. Without `to` its knobs stand as they are; with it they lie on the line to those, so far along it as the
 * share lies between both ends' work. A float is rounded to its dtype towards the near end and never reaches the far
 * one; a whole number is rounded down. Where nothing moves the near end stands as it is. Nothing lies between a
 * threshold and infinity. `docs/bundle_format.md` is the specification.
 */

import type { BudgetRow, KnobValue, KnobValues } from "../bundle/schema.js";
import { float16Bits, float16Value } from "../tensor.js";

const BELOW_ONE = 1 - 2 ** -53;
const ROUNDING = 1e-12;

/** What a budget comes to. */
export interface Answer {
  /** Of all knobs. */
  readonly knobs: KnobValues;
  /** Share of work to expect. */
  readonly work: number;
  /** Expected quality; null where it was not measured. */
  readonly quality: number | null;
  /** False where the budget is below the cheapest point, which this then is. */
  readonly reachable: boolean;
}

interface FloatForm {
  round(value: number): number;
  /** The next float in a direction. */
  neighbour(value: number, towards: number): number;
}

/** A float of whole bits, whose order is that of the bits. */
function form(bits: (value: number) => bigint, value: (bits: bigint) => number): FloatForm {
  return {
    round: (number) => value(bits(number)),
    neighbour(number, towards) {
      if (number === towards) return number;
      if (number === 0) return towards > 0 ? value(1n) : -value(1n);
      // Away from zero is one bit more, whatever the sign.
      return value(bits(number) + (number > 0 === towards > number ? 1n : -1n));
    },
  };
}

const VIEW = new DataView(new ArrayBuffer(8));

const FLOATS: Readonly<Record<string, FloatForm>> = {
  float16: form(
    (value) => BigInt(float16Bits(value)),
    (bits) => float16Value(Number(bits)),
  ),
  float32: form(
    (value) => (VIEW.setFloat32(0, value), BigInt(VIEW.getUint32(0))),
    (bits) => (VIEW.setUint32(0, Number(bits)), VIEW.getFloat32(0)),
  ),
  float64: form(
    (value) => (VIEW.setFloat64(0, value), VIEW.getBigUint64(0)),
    (bits) => (VIEW.setBigUint64(0, bits), VIEW.getFloat64(0)),
  ),
};

/**
 * The answer to a budget of a share of the dense work.
 *
 * @param rows the table for soft budgets or the one for hard ones; the first row begins at 0.
 * @param share 0 or more.
 * @param dtypes of all knobs, by name.
 */
export function lookUp(rows: readonly BudgetRow[], share: number, dtypes: ReadonlyMap<string, string>): Answer {
  const row = rows[lastAtMost(rows, share)]!;
  const { work, quality, to } = row;
  const near = { knobs: row.knobs, work, quality, reachable: work <= share };
  if (to === null || share < work) return near;
  const way = Math.min((share - work) / (to.work - work), BELOW_ONE);
  let moved = false;
  const knobs: Record<string, KnobValue> = {};
  for (const [name, value] of Object.entries(row.knobs)) {
    const between = betweenEnds(value, to.knobs[name]!, way, dtypes.get(name)!);
    moved ||= between !== value;
    knobs[name] = between;
  }
  if (!moved) return near;
  const expected = quality === null || to.quality === null ? null : quality + way * (to.quality - quality);
  return { knobs, work: share, quality: expected, reachable: true };
}

function lastAtMost(rows: readonly BudgetRow[], share: number): number {
  let [low, high] = [0, rows.length];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (rows[middle]!.fraction <= share) low = middle;
    else high = middle;
  }
  return low;
}

/** The value so far on the way; `near` itself where nothing has moved. */
function betweenEnds(near: KnobValue, far: KnobValue, way: number, dtype: string): KnobValue {
  if (typeof near === "number" && typeof far === "number") return move(near, far, way, dtype);
  const size = typeof near === "number" ? (far as readonly number[]).length : near.length;
  const elements = (value: KnobValue): readonly number[] =>
    typeof value === "number" ? new Array<number>(size).fill(value) : value;
  const [nears, fars] = [elements(near), elements(far)];
  const values = nears.map((start, index) => move(start, fars[index]!, way, dtype));
  return values.every((value, index) => value === nears[index]) ? near : values;
}

function move(near: number, far: number, way: number, dtype: string): number {
  if (!Number.isFinite(near) || !Number.isFinite(far)) return near;
  const floats = FLOATS[dtype];
  if (floats === undefined) {
    const whole = Math.floor(near + way * (far - near) + ROUNDING);
    return far > near ? Math.min(whole, far - 1) : whole;
  }
  const [start, end] = [floats.round(near), floats.round(far)];
  const exact = start + way * (end - start);
  let value = floats.round(Math.min(Math.max(exact, Math.min(start, end)), Math.max(start, end)));
  if ((value - exact) * (end - start) > 0 || value === end) value = floats.neighbour(value, start);
  return value === start ? near : value;
}
