/** What a tensor that a bundle describes must satisfy. */

import { listed, whole } from "../message_text.js";
import { DTYPES, type Dtype, dtypeRecord } from "../tensor.js";
import { expect, expectText, short } from "./expectations.js";
import { checkImage } from "./preprocessing_validation.js";
import { type Bundle, MACS_OUTPUT, type TensorSpec } from "./schema.js";

export const MAX_RANK = 16;
export const MAX_SIZE = 2 ** 31 - 1;

/** Refuse a text that is no dtype. */
export function checkDtype(where: string, dtype: string): asserts dtype is Dtype {
  expect(
    Object.hasOwn(DTYPES, dtype),
    () => `${where}: dtype ${short(dtype)}`,
    () => `one of ${Object.keys(DTYPES).join(", ")}`,
  );
}

/** A dtype, and a shape of sizes and names of axes. */
export function checkArray(where: string, dtype: string, shape: readonly (number | string)[]): asserts dtype is Dtype {
  checkDtype(where, dtype);
  expect(
    shape.length <= MAX_RANK,
    () => `${where}: ${shape.length} axes`,
    () => `at most ${MAX_RANK}`,
  );
  for (const size of shape) {
    if (typeof size === "string") expectText(`${where} axis name`, size);
    else
      expect(
        1 <= size && size <= MAX_SIZE,
        () => `${where}: size ${whole(size)}`,
        () => `1 to ${MAX_SIZE}`,
      );
  }
}

/** An input or output. */
export function checkTensor(where: string, spec: TensorSpec): asserts spec is TensorSpec & { dtype: Dtype } {
  expectText(where, spec.name);
  checkArray(where, spec.dtype, spec.shape);
  if (spec.preprocessing !== null) checkImage(`${where} preprocessing`, spec.preprocessing);
}

/** An input: where it takes whole numbers, it says which. */
export function checkInput(where: string, spec: TensorSpec): void {
  checkTensor(where, spec);
  const { kind, least, most } = dtypeRecord(spec.dtype);
  const { minimum, maximum } = spec;
  const got = (): string => `${where}: minimum ${minimum ?? "None"}, maximum ${maximum ?? "None"} of ${spec.dtype}`;
  if (kind !== "i" && kind !== "u") {
    expect(minimum === null && maximum === null, got, () => "limits of whole numbers only");
    return;
  }
  const fine = minimum !== null && maximum !== null && least <= minimum && minimum <= maximum && maximum <= most;
  expect(fine, got, () => `both, ${least} <= minimum <= maximum <= ${most}`);
}

/** Every named axis of the inputs says how long it may be; all but the batch have an end. */
export function checkAxes(bundle: Bundle): void {
  const named = namedAxes(bundle);
  const got = Object.keys(bundle.axes);
  const same = got.length === named.size && got.every((name) => named.has(name));
  expect(
    same,
    () => `axes: ${names(got)}`,
    () => `exactly those of the inputs, ${names([...named])}`,
  );
  const batch = bundle.outputs.filter((spec) => spec.name === MACS_OUTPUT).map((spec) => spec.shape[0]);
  for (const [name, axis] of Object.entries(bundle.axes)) {
    const where = `axes ${short(name)}`;
    const endless = axis.longest !== null || batch.includes(name);
    expect(
      endless,
      () => `${where}: no longest`,
      () => "how long it may be, as it is not the batch",
    );
    const longest = axis.longest ?? MAX_SIZE;
    const fine = 0 <= axis.shortest && axis.shortest <= longest && longest <= MAX_SIZE && longest >= 1;
    expect(
      fine,
      () => `${where}: ${whole(axis.shortest)} to ${whole(longest)}`,
      () => `sizes from 0 to ${MAX_SIZE}, in order`,
    );
  }
}

/** The names of the inputs' axes. */
export function namedAxes(bundle: Bundle): Set<string> {
  return new Set(bundle.inputs.flatMap((spec) => spec.shape.filter((size) => typeof size === "string")));
}

function names(all: string[]): string {
  return all.sort().slice(0, 10).map(short).join(", ") || "none";
}

/** A description of a tensor, for messages. */
export function described(dtype: string, shape: readonly (number | string)[]): string {
  return `${dtype} ${listed(shape)}`;
}
