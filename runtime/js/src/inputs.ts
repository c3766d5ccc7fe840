/**
 * Checks what a caller feeds against what the bundle declares, cheaply enough for every call.
 *
 * Nothing is cast, reshaped or copied: a wrong tensor is refused with what mends it. Sizes and values are checked as
 * well, before any engine sees a byte: what an engine makes of a number outside its table is its own affair.
 */

import type { Axis, TensorSpec } from "./bundle/schema.js";
import { InputError } from "./errors.js";
import { quoted, typeName } from "./message_text.js";
import { type Dtype, DTYPES, dtypeOf, dtypeRecord, holds, type Tensor, type TensorLike } from "./tensor.js";

/** Sizes of the named axes. */
export type Sizes = { [axis: string]: number };
/** Tensors by name. */
export type Tensors = Readonly<Record<string, TensorLike>>;

const ANY_SIZE: Axis = { shortest: 0, longest: null };

/** One input's requirements. */
interface Expected {
  readonly spec: TensorSpec;
  readonly dtype: Dtype;
  readonly checkValues: (tensor: Tensor, spec: TensorSpec) => void;
  readonly axes: readonly { readonly name: string | null; readonly shortest: number; readonly longest: number }[];
}

/** The inputs of a bundle, knobs excluded. */
export class InputContract {
  private readonly expected: readonly Expected[];

  /**
   * @param specs the inputs.
   * @param axes how long the named axes may be.
   */
  constructor(specs: readonly TensorSpec[], axes: Readonly<Record<string, Axis>>) {
    this.expected = specs.map((spec) => ({
      spec,
      dtype: spec.dtype as Dtype,
      checkValues: VALUE_CHECKS[dtypeRecord(spec.dtype as Dtype).kind],
      axes: spec.shape.map((size) => {
        if (typeof size === "number") return { name: null, shortest: size, longest: size };
        const { shortest, longest } = axes[size] ?? ANY_SIZE;
        return { name: size, shortest, longest: longest ?? Infinity };
      }),
    }));
  }

  /**
   * Check every tensor.
   *
   * @returns the same tensors with their dtypes, and the size of every named axis.
   * @throws InputError a name is missing or unknown, something is no tensor, has another dtype, number of axes or size
   *   than declared, two inputs differ in a common axis, a whole number is out of its range, or a fraction not finite.
   */
  check(inputs: Tensors): { feeds: Record<string, Tensor>; sizes: Sizes } {
    if (typeof inputs !== "object" || inputs === null || Array.isArray(inputs)) throw this.wrongNames(inputs);
    const { expected } = this;
    const feeds: Record<string, Tensor> = {};
    const sizes: Sizes = {};
    // Plain loops: after an engine has had the caches, each kind of iterator costs microseconds.
    for (let index = 0; index < expected.length; index++) {
      const one = expected[index]!;
      const { name } = one.spec;
      const given = inputs[name];
      if (given === undefined) throw this.wrongNames(inputs);
      const tensor = checkedTensor(given, one);
      for (let axis = 0; axis < one.axes.length; axis++) {
        const axisName = one.axes[axis]!.name;
        if (axisName === null) continue;
        const size = tensor.shape[axis]!;
        const before = (sizes[axisName] ??= size);
        if (before !== size) {
          throw new InputError(
            `input ${quoted(name)}: ${axisName} is ${size}, expected ${before} as in the inputs before it; ` +
              `feed tensors with the same ${axisName}`,
          );
        }
      }
      one.checkValues(tensor, one.spec);
      feeds[name] = tensor;
    }
    let count = 0;
    for (const _ in inputs) count++;
    if (count !== expected.length) throw this.wrongNames(inputs);
    return { feeds, sizes };
  }

  private wrongNames(inputs: unknown): InputError {
    const names = this.expected.map(({ spec }) => quoted(spec.name));
    if (typeof inputs !== "object" || inputs === null || Array.isArray(inputs)) {
      const wanted = names.map((name) => `${name}: {shape, data}`).join(", ");
      return new InputError(`inputs: got ${typeName(inputs)}, expected an object; pass {${wanted}}`);
    }
    const got = Object.keys(inputs).slice(0, 10).map(quoted).join(", ") || "none";
    return new InputError(
      `inputs: got ${got}, expected exactly ${names.join(", ")}; rename, add or leave out (knobs go in \`knobs\`)`,
    );
  }
}

function checkedTensor(tensor: TensorLike, expected: Expected): Tensor {
  const { dtype, axes } = expected;
  const shape: unknown = (tensor as TensorLike | null | undefined)?.shape;
  const data: unknown = (tensor as TensorLike | null | undefined)?.data;
  if (!Array.isArray(shape) || shape.length !== axes.length) throw wrong(tensor, expected);
  if (!holds(data, dtype) || (tensor.dtype !== undefined && tensor.dtype !== dtype)) throw wrong(tensor, expected);
  let count = 1;
  for (let axis = 0; axis < axes.length; axis++) {
    const size: unknown = shape[axis];
    const { name, shortest, longest } = axes[axis]!;
    if (typeof size !== "number" || !Number.isInteger(size) || size < 0) throw wrong(tensor, expected);
    if (size < shortest || size > longest) {
      throw name === null ? wrong(tensor, expected) : wrongSize(tensor, expected, axis, name, shortest, longest);
    }
    count *= size;
  }
  if (data.length !== count) {
    throw new InputError(
      `input ${quoted(expected.spec.name)}: got ${data.length} elements, expected ${count} of the shape ` +
        `[${shape.join(", ")}]; give data and shape of one tensor`,
    );
  }
  return tensor.dtype === dtype ? (tensor as Tensor) : { dtype, shape: shape as number[], data };
}

function wrong(tensor: unknown, { spec, axes }: Expected): InputError {
  const dtype = spec.dtype as Dtype;
  const want = `${dtype} [${spec.shape.join(", ")}]`;
  const where = `input ${quoted(spec.name)}`;
  const array = DTYPES[dtype].array.name;
  const { shape, data } = (tensor ?? {}) as { shape?: unknown; data?: unknown };
  const got = dtypeOf(data);
  if (got === undefined || !Array.isArray(shape)) {
    return new InputError(
      `${where}: got ${typeName(tensor)}, expected a tensor ${want}; pass {shape: [...], data: new ${array}(...)}`,
    );
  }
  const told = (tensor as TensorLike).dtype;
  const dtypeText = told ?? (holds(data, dtype) ? dtype : got);
  const first = `${where}: got ${dtypeText} [${shape.join(", ")}], expected ${want}`;
  if (!holds(data, dtype) || (told !== undefined && told !== dtype)) {
    return new InputError(`${first}; give its data as a ${array}`);
  }
  if (shape.length + 1 === axes.length)
    return new InputError(`${first}; add the missing axis, for one sample a 1 in front`);
  return new InputError(`${first}; reshape or resize it to that`);
}

function wrongSize(
  tensor: TensorLike,
  { spec }: Expected,
  axis: number,
  name: string,
  shortest: number,
  longest: number,
): InputError {
  const size = tensor.shape[axis]!;
  const sizes = longest === Infinity ? `at least ${shortest}` : `${shortest} to ${longest}`;
  return new InputError(
    `input ${quoted(spec.name)}: got [${tensor.shape.join(", ")}], where ${name} is ${size}, expected ${sizes}; ` +
      (size > longest ? "cut it" : "give more"),
  );
}

/** The indices of an element by its place in row-major order. */
function indices(shape: readonly number[], place: number): string {
  const found: number[] = [];
  for (const size of [...shape].reverse()) {
    found.unshift(place % size);
    place = Math.floor(place / size);
  }
  return `[${found.join(", ")}]`;
}

/** Refuse NaN and infinity: no answer to them means anything, and engines differ in the one they give. */
function checkFinite({ dtype, shape, data }: Tensor, spec: TensorSpec): void {
  let place = -1;
  if (dtype === "float16" && data instanceof Uint16Array) {
    place = data.findIndex((bits) => (bits & 0x7c00) === 0x7c00);
  } else {
    const numbers = data as Float32Array;
    let sum = 0;
    for (let index = 0; index < numbers.length; index++) sum += numbers[index]! - numbers[index]!; // 0, or NaN for ever
    if (sum === 0) return;
    place = numbers.findIndex((number) => !Number.isFinite(number));
  }
  if (place < 0) return;
  throw new InputError(
    `input ${quoted(spec.name)}: got ${String(data[place]).replace("Infinity", "inf").replace("NaN", "nan")} at ` +
      `${indices(shape, place)}, expected finite numbers; ` +
      "look where it comes from, or put a value in its place that the model knows",
  );
}

/** Refuse booleans that are neither 0 nor 1: engines compute with the byte. */
function checkBytes({ shape, data }: Tensor, spec: TensorSpec): void {
  const place = (data as Uint8Array).findIndex((byte) => byte > 1);
  if (place < 0) return;
  throw new InputError(
    `input ${quoted(spec.name)}: got a boolean whose byte is ${data[place]} at ${indices(shape, place)}, ` +
      "expected 0 or 1; pass Uint8Array.from(x, (one) => Number(one !== 0))",
  );
}

/** Refuse whole numbers that the model has nothing for. */
function checkRange({ shape, data }: Tensor, spec: TensorSpec): void {
  const { minimum, maximum } = spec;
  if (minimum === null || maximum === null) return;
  for (let place = 0; place < data.length; place++) {
    const value = data[place]!;
    if (minimum <= value && value <= maximum) continue;
    throw new InputError(
      `input ${quoted(spec.name)}: got ${value} at ${indices(shape, place)}, expected ${minimum} to ${maximum}; ` +
        "feed numbers in that range, such as the model's own tokenizer gives",
    );
  }
}

/** What looks at the values of an input, by the kind of its dtype. */
const VALUE_CHECKS = { f: checkFinite, i: checkRange, u: checkRange, b: checkBytes } as const;
