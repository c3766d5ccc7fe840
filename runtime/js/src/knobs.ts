/** Knob values as tensors to feed. */

import type { Knob, KnobValue, KnobValues } from "./bundle/schema.js";
import { InputError } from "./errors.js";
import { general, quoted, shown } from "./message_text.js";
import { type Dtype, dtypeRecord, filled, product, type Tensor } from "./tensor.js";

/**
 * A tensor for every knob, at `values` or else its default.
 *
 * @param values for each knob named, a number that fills its shape, or as many numbers as it has elements.
 * @throws InputError a name is unknown, a value is no finite number, out of the knob's limits, not a whole number where
 *   the knob takes whole numbers, or there are too few or too many of them.
 */
export function knobTensors(knobs: readonly Knob[], values: KnobValues): Map<string, Tensor> {
  if (typeof values !== "object" || values === null || Array.isArray(values)) {
    throw new InputError(`knobs: got ${shown(values)}, expected an object; pass {price: 0.5}`);
  }
  for (const name of Object.keys(values)) {
    if (knobs.some((knob) => knob.name === name)) continue;
    const known = knobs.map((knob) => quoted(knob.name)).join(", ") || "none";
    throw new InputError(`knobs: got ${quoted(name)}, expected some of ${known}; \`adaptrt inspect\` lists them`);
  }
  return new Map(
    knobs.map((knob) => {
      const numbers = checkedNumbers(knob, knobValue(knob, values));
      return [knob.name, filled(knob.dtype as Dtype, knob.shape, numbers)];
    }),
  );
}

/** A knob's value, or its default. */
export function knobValue(knob: Knob, values: KnobValues): KnobValue {
  return Object.hasOwn(values, knob.name) ? values[knob.name]! : knob.default;
}

/** Whether all values are the knobs' defaults, at which nothing is left out and nobody leaves early. */
export function runsEverything(knobs: readonly Knob[], values: KnobValues): boolean {
  return knobs.every((knob) => {
    const value = knobValue(knob, values);
    return typeof value === "number" ? value === knob.default : value.every((one) => one === knob.default);
  });
}

function checkedNumbers(knob: Knob, value: unknown): KnobValue {
  if (!Array.isArray(value) && !ArrayBuffer.isView(value)) return checkedNumber(knob, value);
  const numbers = Array.from(value as ArrayLike<unknown>);
  const size = product(knob.shape);
  if (numbers.length !== size) {
    throw new InputError(
      `knob ${quoted(knob.name)}: got ${numbers.length} values, expected ${size}, or one number for all of them`,
    );
  }
  return numbers.map((number) => checkedNumber(knob, number));
}

function checkedNumber(knob: Knob, value: unknown): number {
  const number = typeof value === "number" ? value : NaN;
  const { kind, most } = dtypeRecord(knob.dtype as Dtype);
  const where = `knob ${quoted(knob.name)}`;
  if (kind === "f" && Number(most) < Math.abs(number) && Math.abs(number) < Infinity) {
    throw new InputError(
      `${where}: got ${shown(value)}, expected a number that ${knob.dtype} can hold, or infinity; pass that`,
    );
  }
  if (!(knob.minimum <= number && number <= knob.maximum)) {
    const size = product(knob.shape);
    const wanted = size === 1 ? "a number" : `a number, or ${size} of them,`;
    throw new InputError(
      `${where}: got ${shown(value)}, expected ${wanted} from ${general(knob.minimum)} to ${general(knob.maximum)}; ` +
        "pass that",
    );
  }
  if (kind !== "f" && !Number.isInteger(number)) {
    throw new InputError(`${where}: got ${shown(value)}, expected a whole number (${knob.dtype}); round it`);
  }
  return number;
}
