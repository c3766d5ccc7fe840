/** Rows and slices of tensors: what compaction and the caller's order are made of. */

import { product, type Tensor, type TypedArray } from "./tensor.js";

type Sliceable = {
  subarray(begin: number, end: number): TypedArray;
  set(array: ArrayLike<unknown>, offset: number): void;
};

function emptyLike(data: TypedArray, length: number): TypedArray {
  return new (data.constructor as new (length: number) => TypedArray)(length);
}

/** Elements from one place of an array to another's. */
function copy(from: TypedArray, begin: number, length: number, to: TypedArray, offset: number): void {
  (to as unknown as Sliceable).set(
    (from as unknown as Sliceable).subarray(begin, begin + length) as ArrayLike<unknown>,
    offset,
  );
}

/** Some entries of the first axis, in a new tensor. */
export function takeRows({ dtype, shape, data }: Tensor, rows: readonly number[]): Tensor {
  const width = product(shape.slice(1));
  const taken = emptyLike(data, rows.length * width);
  for (let index = 0; index < rows.length; index++) copy(data, rows[index]! * width, width, taken, index * width);
  return { dtype, shape: [rows.length, ...shape.slice(1)], data: taken };
}

/** The first `size` entries of an axis behind the first one; the tensor itself where it has no more. */
export function cutAxis(tensor: Tensor, axis: number, size: number): Tensor {
  const { dtype, shape, data } = tensor;
  const before = shape[axis]!;
  if (size >= before) return tensor;
  const outer = product(shape.slice(0, axis));
  const inner = product(shape.slice(axis + 1));
  const kept = emptyLike(data, outer * size * inner);
  for (let index = 0; index < outer; index++)
    copy(data, index * before * inner, size * inner, kept, index * size * inner);
  return { dtype, shape: shape.map((one, place) => (place === axis ? size : one)), data: kept };
}

/** Rows of several tensors, each at its places, in one of so many rows. */
export function assembled(
  parts: readonly { readonly tensor: Tensor; readonly rows: readonly number[]; readonly places: readonly number[] }[],
  count: number,
): Tensor {
  const { dtype, shape, data } = parts[0]!.tensor;
  const width = product(shape.slice(1));
  const whole = emptyLike(data, count * width);
  for (const { tensor, rows, places } of parts) {
    for (const [index, row] of rows.entries()) copy(tensor.data, row * width, width, whole, places[index]! * width);
  }
  return { dtype, shape: [count, ...shape.slice(1)], data: whole };
}
