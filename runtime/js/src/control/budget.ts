/** What a caller may spend. */

import { BudgetError } from "../errors.js";
import { either, quoted, shown } from "../message_text.js";
import { BUDGET_KINDS, type BudgetKind, type BudgetKindName } from "./budget_kinds.js";

/** A budget as it crosses to a worker. */
export interface BudgetFields {
  readonly kind: string;
  readonly value?: number;
  readonly hard?: boolean;
  readonly percentile?: number;
}

/**
 * What may be spent: work per sample, or time of this device. Make one with `fraction`, `macs`, `latency`, `full` or
 * `parse`.
 *
 * A soft budget holds for the mean over inputs like the calibration data, while single samples take more or less;
 * `Result.macsFraction` says what each one took. A hard budget holds for each sample: all take the same.
 */
export class Budget {
  private constructor(
    readonly kind: BudgetKindName,
    readonly value: number,
    readonly hard: boolean,
    readonly percentile: number,
  ) {
    Object.freeze(this);
  }

  /** A share of the dense model's multiply-accumulates, 0 or more: 0.5 is half of them. */
  static fraction(share: number, options: { readonly hard?: boolean } = {}): Budget {
    return Budget.of({ kind: "fraction", value: share, ...options });
  }

  /** Multiply-accumulates per sample, 0 or more, at the input shape that the bundle was calibrated with. */
  static macs(count: number, options: { readonly hard?: boolean } = {}): Budget {
    return Budget.of({ kind: "macs", value: count, ...options });
  }

  /** Milliseconds of a call, above 0; `percentile` is the share of the calls that are to stay under it. */
  static latency(milliseconds: number, options: { readonly percentile?: number } = {}): Budget {
    return Budget.of({ kind: "latency", value: milliseconds, ...options });
  }

  /** Everything runs. */
  static full(): Budget {
    return FULL;
  }

  /**
   * The budget of these fields.
   *
   * @throws BudgetError a field has no sense.
   */
  static of(fields: BudgetFields): Budget {
    const { kind: name, value, hard = false } = fields;
    if (typeof hard !== "boolean") {
      throw new BudgetError(`got hard=${shown(hard)}; expected true (each sample) or false (on average)`);
    }
    if (!isKind(name)) {
      throw new BudgetError(`got a budget of kind ${shown(name)}; expected ${Object.keys(BUDGET_KINDS).join(", ")}`);
    }
    const kind: BudgetKind = BUDGET_KINDS[name];
    if (kind.meter === "nothing") return new Budget(name, 0, false, 0);
    const amount = checkedAmount(kind, value);
    if (kind.meter === "time" && hard) {
      throw new BudgetError(
        `got a hard budget of kind ${quoted(name)}; expected hard=false: a device promises nothing`,
      );
    }
    const percentile = kind.percentile > 0 ? checkedPercentile(fields.percentile ?? kind.percentile) : 0;
    return new Budget(name, amount, hard, percentile);
  }

  /**
   * A budget as people write it: `45%`, `0.45`, `90M`, `8ms`, `full`.
   *
   * @throws BudgetError it is written in no such way.
   */
  static parse(text: string, options: { readonly hard?: boolean } = {}): Budget {
    const parts = /^\s*(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*([A-Za-z%]*)\s*$/u.exec(text);
    for (const [kind, row] of Object.entries<BudgetKind>(BUDGET_KINDS)) {
      if (row.meter === "nothing" && text.trim() === kind) return Budget.full();
      for (const form of parts === null ? [] : row.forms) {
        const amount = (Number(parts![1]) * (form.multiplier ?? 1)) / (form.divisor ?? 1);
        if (form.suffix !== parts![2] || amount > (form.largest ?? Infinity)) continue;
        return Budget.of({ kind, value: amount, ...options });
      }
    }
    throw new BudgetError(
      `got a budget of ${shown(text)}; expected a share such as 0.5 or 50%, MACs such as 90M, a latency such as 8ms, ` +
        "or full",
    );
  }

  /** For messages, such as `0.5 of the dense work`. */
  toString(): string {
    return BUDGET_KINDS[this.kind].shown(this.value, this.hard, this.percentile);
  }
}

const FULL = Budget.of({ kind: "full" });

function isKind(name: unknown): name is BudgetKindName {
  return typeof name === "string" && Object.hasOwn(BUDGET_KINDS, name);
}

/** Refuse what was not made by `Budget`. */
export function checkBudget(budget: unknown): asserts budget is Budget {
  if (budget instanceof Budget) return;
  const calls = Object.values(BUDGET_KINDS).map((kind) => kind.call);
  throw new BudgetError(`got a budget of ${shown(budget)}, expected a Budget; pass ${either(calls)}`);
}

/** The share of the dense work that a budget of work is. */
export function shareOf(budget: Budget, denseMacs: number): number {
  return BUDGET_KINDS[budget.kind].ofDense ? budget.value / denseMacs : budget.value;
}

function checkedAmount(kind: BudgetKind, value: unknown): number {
  const physical = kind.meter === "time";
  const least = physical ? "above 0" : "of at least 0";
  const problem = `got a budget of ${shown(value)}; expected ${kind.counts}, a finite number ${least}`;
  if (typeof value !== "number") throw new BudgetError(`${problem}, such as ${kind.call}`);
  if (!Number.isFinite(value) || value < 0 || (physical && value === 0)) throw new BudgetError(problem);
  return value + 0; // -0 becomes 0
}

function checkedPercentile(value: unknown): number {
  if (typeof value !== "number" || !(0.5 <= value && value <= 0.999)) {
    throw new BudgetError(
      `got percentile=${shown(value)}; expected a share of the calls from 0.5 to 0.999, such as 0.95`,
    );
  }
  return value;
}
