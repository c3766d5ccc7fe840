/** Checks what an engine gave against what the bundle declares, cheaply enough for every call. */

import { MAX_FRACTION } from "./bundle/curve_validation.js";
import { MACS_OUTPUT, type TensorSpec } from "./bundle/schema.js";
import { OutputError } from "./errors.js";
import type { Sizes } from "./inputs.js";
import { float, general, quoted } from "./message_text.js";
import type { Tensor } from "./tensor.js";

/** The outputs of a bundle. An engine that answers with something of another size has not answered. */
export class OutputContract {
  constructor(private readonly specs: readonly TensorSpec[]) {}

  /**
   * Check every tensor.
   *
   * @param sizes of every named axis of the inputs.
   * @throws OutputError one is missing, or has another dtype, number of axes or size than declared.
   */
  check(outputs: Readonly<Record<string, Tensor>>, sizes: Sizes): void {
    for (let index = 0; index < this.specs.length; index++) {
      const spec = this.specs[index]!;
      const tensor = outputs[spec.name];
      if (tensor === undefined || tensor.dtype !== spec.dtype || !fits(tensor.shape, spec.shape, sizes)) {
        throw wrong(spec, tensor, sizes);
      }
    }
    checkShare(outputs[MACS_OUTPUT]!.data as Float32Array);
  }
}

/** Whether all sizes are as declared; of an axis that no input has the size is not known. */
function fits(got: readonly number[], declared: readonly (number | string)[], sizes: Sizes): boolean {
  if (got.length !== declared.length) return false;
  for (let axis = 0; axis < got.length; axis++) {
    const size = declared[axis]!;
    const wanted = typeof size === "number" ? size : sizes[size];
    if (wanted !== undefined && wanted !== got[axis]) return false;
  }
  return true;
}

/** Refuse a share of work that is none: the answer beside it came from numbers that overflowed. */
function checkShare(shares: Float32Array): void {
  for (let index = 0; index < shares.length; index++) {
    const share = shares[index]!;
    if (0 <= share && share <= MAX_FRACTION) continue; // false for NaN
    throw new OutputError(
      `output '${MACS_OUTPUT}': got ${float(share)}, expected 0 to ${general(MAX_FRACTION)}; the inputs are too ` +
        "large for the network to compute with, or the engine is broken: feed numbers like those of its training",
    );
  }
}

function wrong(spec: TensorSpec, tensor: Tensor | undefined, sizes: Sizes): OutputError {
  const wanted = spec.shape.map((size) => (typeof size === "string" ? (sizes[size] ?? size) : size));
  const got = tensor === undefined ? "nothing" : `${tensor.dtype} [${tensor.shape.join(", ")}]`;
  return new OutputError(
    `output ${quoted(spec.name)} came out as ${got}, expected ${spec.dtype} [${wanted.join(", ")}]; ` +
      "call it again, and if it stays so run `adaptrt verify` on the bundle",
  );
}
