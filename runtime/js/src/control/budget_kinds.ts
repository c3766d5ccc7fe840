/** The kinds of budgets: one row each, from which everything that lists, names, reads or shows them is derived. */

import { general } from "../message_text.js";

/** One way to write an amount: a number and a suffix. */
interface TextForm {
  readonly suffix: string;
  /** From the number to the kind's unit. Two, as 57 / 100 is not 57 * 0.01. */
  readonly multiplier?: number;
  readonly divisor?: number;
  /** Amount above which it is not meant so. */
  readonly largest?: number;
}

/** One kind of budget. */
export interface BudgetKind {
  /** What its value counts, with the unit. */
  readonly counts: string;
  /** What is measured to hold it: `nothing` of what has no value, `work` done, or the `time` of calls. */
  readonly meter: "nothing" | "work" | "time";
  /** How to make one. */
  readonly call: string;
  readonly forms: readonly TextForm[];
  /** In messages. */
  shown(value: number, hard: boolean, percentile: number): string;
  /** Share of the calls that are to stay under it unless told otherwise; 0 where it has none. */
  readonly percentile: number;
  /** Whether the value is divided by the dense model's multiply-accumulates to be a share of work. */
  readonly ofDense: boolean;
}

/** A device's energy and power have no row: neither node nor a browser tells them. */
export const BUDGET_KINDS = {
  fraction: {
    counts: "a share of the dense model's work",
    meter: "work",
    call: "Budget.fraction(0.5)",
    // A larger plain number is meant as multiply-accumulates whose suffix was forgotten.
    forms: [
      { suffix: "", largest: 10 },
      { suffix: "%", divisor: 100 },
    ],
    shown: (value, hard) => `${general(value, 4)} of the dense work${hard ? " for each sample" : ""}`,
    percentile: 0,
    ofDense: false,
  },
  macs: {
    counts: "multiply-accumulates per sample",
    meter: "work",
    call: "Budget.macs(2e9)",
    forms: [
      { suffix: "k", multiplier: 1e3 },
      { suffix: "K", multiplier: 1e3 },
      { suffix: "M", multiplier: 1e6 },
      { suffix: "G", multiplier: 1e9 },
      { suffix: "T", multiplier: 1e12 },
      { suffix: "MACs" },
    ],
    shown: (value, hard) => `${general(value, 4)} MACs ${hard ? "for each" : "per"} sample`,
    percentile: 0,
    ofDense: true,
  },
  latency: {
    counts: "milliseconds per call",
    meter: "time",
    call: "Budget.latency(8)",
    forms: [{ suffix: "ms" }],
    shown: (value, _hard, percentile) => `${general(value, 4)} ms for ${general(percentile, 4)} of the calls`,
    percentile: 0.95,
    ofDense: false,
  },
  full: {
    counts: "nothing",
    meter: "nothing",
    call: "Budget.full()",
    forms: [],
    shown: () => "full",
    percentile: 0,
    ofDense: false,
  },
} as const satisfies Record<string, BudgetKind>;

export type BudgetKindName = keyof typeof BUDGET_KINDS;
