/** What one call returned and cost. */

import type { KnobValues } from "./bundle/schema.js";
import type { Budget } from "./control/budget.js";
import type { Decisions } from "./decisions.js";
import type { Tensor } from "./tensor.js";

/** What one call returned and cost. */
export interface Result {
  /** Every output of the bundle by name, except `macs_fraction`; each sample's from the stage where it left. */
  readonly outputs: Readonly<Record<string, Tensor>>;
  /** The share of the dense model's multiply-accumulates that each sample used. */
  readonly macsFraction: Float32Array;
  /** Wall-clock time of executing all stages, in milliseconds. */
  readonly latencyMs: number;
  /** That this call was to obey; null where `knobs` were passed. */
  readonly budget: Budget | null;
  /** Values of all knobs: a number, or a list of one for each element. */
  readonly knobs: KnobValues;
  /** False where the budget is below the cheapest calibrated point, which then ran. */
  readonly reachable: boolean;
  /**
   * Says so in words, or that calls under a soft budget take clearly more than was calibrated; null: nothing to say.
   */
  readonly message: string | null;
  /** The stage at whose head each sample left, from 0; null for a bundle of one stage. */
  readonly exit: Int32Array | null;
  /** What was computed for each token, where that was asked for. */
  readonly decisions: Decisions | null;
  /** Milliseconds that half of such calls were expected to stay under, under a budget of time; null elsewhere. */
  readonly expected: number | null;
  /** Whether the answer was there by the call's deadline; null where it had none. */
  readonly deadlineMet: boolean | null;
  /** Whether the call kept its deadline, or else a budget of time; null where there is neither. */
  readonly targetMet: boolean | null;
}
