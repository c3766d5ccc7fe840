/** The answer for no samples, made without the graph: not every operator takes empty tensors. */

import type { Bundle } from "./bundle/schema.js";
import type { Sizes } from "./inputs.js";
import { type Dtype, type Tensor, zeros } from "./tensor.js";

/**
 * Every output of the bundle with no samples in it.
 *
 * @param batch the axis that counts samples; null where the bundle has none.
 * @param sizes of every named axis, as the call's inputs have them.
 * @returns tensors by name, or null where there are samples, or an output's shape does not follow from the inputs: the
 *   graph is run then.
 */
export function outputsOfEmptyBatch(bundle: Bundle, batch: string | null, sizes: Sizes): Record<string, Tensor> | null {
  if (batch === null || sizes[batch] !== 0) return null;
  const outputs: Record<string, Tensor> = {};
  for (const spec of bundle.outputs) {
    const shape = spec.shape.map((size) => (typeof size === "string" ? (sizes[size] ?? -1) : size));
    if (!spec.shape.includes(batch) || shape.includes(-1)) return null;
    outputs[spec.name] = zeros(spec.dtype as Dtype, shape);
  }
  return outputs;
}
