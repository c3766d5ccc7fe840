/** What was decided for each token, as layers to draw over a picture or a text. */

import type { Bundle } from "../../src/bundle/schema.js";
import type { Decisions, TokenDecisions } from "../../src/decisions.js";

/** One number for each token. */
export interface Layer {
  readonly kind: "work" | "learners" | "kept";
  readonly title: string;
  /** In a few words what the numbers come to. */
  readonly detail: string;
  /** Of `work` a share from 0 to 1, of `learners` how many ran, of `kept` 1 or 0; -1 where the token was gone. */
  readonly values: readonly number[];
  /** The largest number that there can be. */
  readonly most: number;
  /** Whether the sample came so far; false where it left before. */
  readonly reached: boolean;
}

/** How many learners a gate can run: what the bundle says of its ops, as `adaptrt run --explain` takes it. */
function mostLearners(bundle: Bundle, { learners }: TokenDecisions): number {
  const declared = Object.entries(bundle.ops)
    .filter(([op]) => op.startsWith("Conditional"))
    .map(([, count]) => count);
  return Math.max(...declared, ...Array.from(learners.data as Int32Array), 1);
}

/** The layers of the first sample: work over all gates, then every selection, then every gate. */
export function layersOf(bundle: Bundle, decisions: Decisions): Layer[] {
  const sets = Object.entries(decisions);
  return sets.flatMap(([name, set]) => layersOfSet(sets.length > 1 ? `${name}, ` : "", set, mostLearners(bundle, set)));
}

function layersOfSet(prefix: string, { learners, kept }: TokenDecisions, most: number): Layer[] {
  const gates = rows(learners.shape, learners.data as Int32Array).map((values, number): Layer => {
    const there = values.filter((one) => one >= 0);
    const mean = there.reduce((sum, one) => sum + one, 0) / there.length;
    const detail = there.length > 0 ? `${mean.toFixed(2)} of ${most}` : "not reached";
    return { kind: "learners", title: `${prefix}gate ${number + 1}`, detail, values, most, reached: there.length > 0 };
  });
  const selections = rows(kept.shape, kept.data as Uint8Array).map((values, number): Layer => {
    const count = values.filter((one) => one === 1).length;
    const detail = count > 0 ? `${count} of ${values.length}` : "not reached";
    return { kind: "kept", title: `${prefix}selection ${number + 1}`, detail, values, most: 1, reached: count > 0 };
  });
  return gates.length > 1 ? [workLayer(prefix, gates, most), ...selections, ...gates] : [...selections, ...gates];
}

/** Of what all gates could run for a token, the share that ran; a token that is gone costs nothing. */
function workLayer(prefix: string, gates: readonly Layer[], most: number): Layer {
  const values = gates[0]!.values.map((_, token) => {
    const run = gates.reduce((sum, gate) => sum + Math.max(gate.values[token]!, 0), 0);
    return run / (gates.length * most);
  });
  const mean = values.reduce((sum, one) => sum + one, 0) / Math.max(values.length, 1);
  const detail = `${(100 * mean).toFixed(0)}%`;
  return { kind: "work", title: `${prefix}all ${gates.length} gates`, detail, values, most: 1, reached: true };
}

/** The rows of the first sample of [batch, rows, tokens]. */
function rows(shape: readonly number[], data: Int32Array | Uint8Array): number[][] {
  const [, count, tokens] = shape as [number, number, number];
  return Array.from({ length: count }, (_, row) => Array.from(data.subarray(row * tokens, (row + 1) * tokens)));
}
