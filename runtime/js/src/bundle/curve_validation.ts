/** What the calibrated points of a bundle must satisfy. */

import { float, general } from "../message_text.js";
import { type Dtype, dtypeRecord, product } from "../tensor.js";
import { AGAIN, expect, expectFinite, expectText, Invalid, short } from "./expectations.js";
import {
  type Bundle,
  type CurvePoint,
  type Knob,
  type KnobValue,
  SNAPPING_SETTING,
  TOKEN_PRICE_KNOB,
} from "./schema.js";

export const MAX_CURVE_POINTS = 10_000;
/** An adaptive model that works a hundred times as much as the dense one is a mistake in the file. */
export const MAX_FRACTION = 100;

type KnobsByName = ReadonlyMap<string, Knob>;

/** Names sorted, in brackets. */
export function listedNames(names: Iterable<string>): string {
  return `[${[...names].sort().map(short).join(", ")}]`;
}

/** Check every point, and that what is between the points of a chain means something. */
export function checkCurve(bundle: Bundle): void {
  const knobs = new Map(bundle.knobs.map((knob) => [knob.name, knob]));
  for (const [number, point] of bundle.curve.entries()) checkPoint(`curve[${number}]`, point, knobs);
  checkChains(bundle, knobs);
}

function checkPoint(where: string, point: CurvePoint, knobs: KnobsByName): void {
  for (const [name, value] of Object.entries(point.knobs)) {
    const knob = knobs.get(name);
    if (knob === undefined) {
      throw new Invalid(
        `${where}: unknown knob ${short(name)}, expected one of ${listedNames(knobs.keys())}; ${AGAIN}`,
      );
    }
    checkKnobValue(`${where}: ${name}`, value, knob);
  }
  for (const share of [point.macs_fraction, point.calibration_macs_fraction]) {
    const fine = share === null || (0 <= share && share <= MAX_FRACTION);
    expect(
      fine,
      () => `${where}: share ${float(share)} of the dense work`,
      () => `0 to ${general(MAX_FRACTION)}`,
    );
  }
  expectFinite(`${where} quality`, [point.quality, point.calibration_quality]);
  const error = point.calibration_error;
  const fine = error === null || (0 <= error && error < Infinity);
  expect(
    fine,
    () => `${where} calibration_error ${float(error)}`,
    () => "a finite number, 0 or more",
  );
  if (point.setting) expectText(`${where} setting`, point.setting);
}

/** A number for all elements of a knob, or a list with one for each, within its limits, and whole where it is. */
export function checkKnobValue(where: string, value: KnobValue, knob: Knob): void {
  const size = product(knob.shape);
  const numbers = typeof value === "number" ? [value] : value;
  if (typeof value !== "number") {
    const wanted = (): string => `${size}, or one number for all`;
    expect(value.length === size, () => `${where} of ${value.length} values`, wanted);
  }
  const { kind, most } = dtypeRecord(knob.dtype as Dtype);
  for (const number of numbers) {
    const held = kind !== "f" || number === Infinity || Math.abs(number) <= Number(most);
    const fine = knob.minimum <= number && number <= knob.maximum && number > -Infinity && held;
    expect(
      fine,
      () => `${where} ${float(number)}`,
      () => `${float(knob.minimum)} to ${float(knob.maximum)}`,
    );
    const whole = kind === "f" || Number.isInteger(number);
    expect(
      whole,
      () => `${where} ${float(number)}`,
      () => `a whole number (${knob.dtype})`,
    );
  }
}

/**
 * Refuse chains along which a knob goes from off to on: there is nothing between the two.
 *
 * Of a whole-number knob and of the tokens' own price, a negative value means that they are off.
 */
function checkChains(bundle: Bundle, knobs: KnobsByName): void {
  const switches = [...knobs.values()].filter(
    (knob) => knob.name === TOKEN_PRICE_KNOB || dtypeRecord(knob.dtype as Dtype).kind === "i",
  );
  const seen = new Map<string, { first: number; off: Map<string, string> }>();
  for (const [number, point] of bundle.curve.entries()) {
    if (!point.setting || point.setting.startsWith(SNAPPING_SETTING)) continue;
    const off = new Map(switches.map((knob) => [knob.name, signs(point.knobs[knob.name] ?? knob.default)]));
    const key = `${point.hard} ${point.setting}`;
    const before = seen.get(key) ?? { first: number, off };
    seen.set(key, before);
    for (const { name } of switches) {
      expect(
        off.get(name) === before.off.get(name),
        () =>
          `curve[${number}]: ${name} is on where it was off, or the other way round, in curve[${before.first}] ` +
          `of the same setting ${short(point.setting)}`,
        () => "a chain that keeps it as it is",
      );
    }
  }
}

/** Which elements are below zero; one answer where it is the same for all, as for a number. */
function signs(value: KnobValue): string {
  const each = (typeof value === "number" ? [value] : value).map((number) => (number < 0 ? "-" : "+"));
  return new Set(each).size === 1 ? each[0]! : each.join("");
}
