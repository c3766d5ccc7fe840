/** What a call needs to know of its budget, worked out once per budget. */

import { type Bundle, type KnobValues, THRESHOLDS_KNOB } from "./bundle/schema.js";
import { Budget, checkBudget, shareOf } from "./control/budget.js";
import { BUDGET_KINDS } from "./control/budget_kinds.js";
import { lookUp } from "./control/budget_table.js";
import { BudgetError } from "./errors.js";
import { general, quoted } from "./message_text.js";
import { knobTensors, knobValue, runsEverything } from "./knobs.js";
import type { Tensor } from "./tensor.js";

/** Enough for every budget an app switches between; a controller that never repeats one stays bounded. */
const PLANS_KEPT = 512;

/** What to run, and what calibration lets expect of it. */
export interface OperatingPoint {
  /** A value for every knob of the bundle. */
  readonly knobs: KnobValues;
  /** Expected mean share of the dense model's work; NaN where never calibrated. */
  readonly macsFraction: number;
  /** Expected on held-out data; null where it was not measured. */
  readonly quality: number | null;
  /** False if the budget is below the cheapest point, which this then is. */
  readonly reachable: boolean;
}

/** One budget's operating point as tensors to feed. */
export interface Plan {
  /** That was asked for; null where knob values were. */
  readonly budget: Budget | null;
  readonly point: OperatingPoint;
  /** For every knob that is a graph input. */
  readonly feeds: ReadonlyMap<string, Tensor>;
  /** For each stage but the last the confidence above which a sample leaves; infinity where none does. */
  readonly thresholds: readonly number[];
  /** For the caller, where the budget cannot be met. */
  readonly message: string | null;
  /** Whether its calls are to take the expected work on average: a soft budget of work, calibrated. */
  readonly checked: boolean;
  /** Whether the budget depends on the device, which then chooses the plan of each call. */
  readonly physical: boolean;
  /** Whether every knob stands at its default and nobody leaves early. */
  readonly everything: boolean;
}

/** Makes plans for one bundle, and keeps the latest. */
export class Planner {
  private readonly dtypes: ReadonlyMap<string, string>;
  private readonly kept = new Map<string, Plan>();
  /** Calls with the same budget follow each other: writing its key would take longer than all checks. */
  private latest: { readonly budget: Budget; readonly plan: Plan } | null = null;

  constructor(private readonly bundle: Bundle) {
    this.dtypes = new Map(bundle.knobs.map((knob) => [knob.name, knob.dtype]));
  }

  /**
   * The plan that obeys a budget; of one that depends on the device what stands for it until a call: everything.
   *
   * @throws BudgetError it is no `Budget`, or the bundle has no rows for it.
   */
  forBudget(budget: Budget): Plan {
    if (this.latest?.budget === budget) return this.latest.plan;
    checkBudget(budget);
    const plan = this.cached(`${budget.kind} ${budget.value} ${budget.hard} ${budget.percentile}`, () =>
      this.solved(budget),
    );
    this.latest = { budget, plan };
    return plan;
  }

  /**
   * The shares of the dense work between which budgets choose: the cheapest point's and everything's.
   *
   * @throws BudgetError the bundle has no rows for soft budgets.
   */
  get shares(): readonly [number, number] {
    const cheapest = this.forBudget(Budget.fraction(0)).point.macsFraction;
    return [cheapest, Math.max(cheapest, this.forBudget(Budget.full()).point.macsFraction)];
  }

  /** The plan that runs a share of the dense work for the sake of another kind of budget. */
  forFraction(fraction: number, budget: Budget, reachable = true, message: string | null = null): Plan {
    const full = this.forBudget(Budget.full());
    const plan = fraction >= full.point.macsFraction ? full : this.forBudget(Budget.fraction(fraction));
    const physical = BUDGET_KINDS[budget.kind].meter === "time";
    return { ...plan, budget, point: { ...plan.point, reachable }, message, checked: false, physical };
  }

  /**
   * The plan that feeds given values; knobs that are not named stand at their defaults.
   *
   * @throws InputError an unknown knob, or a value that it does not take.
   * @throws BudgetError a budget is given as well.
   */
  forKnobs(values: KnobValues, budget: Budget | null): Plan {
    if (budget !== null) {
      throw new BudgetError(`got both a budget (${budget}) and knobs, expected one of them; leave one out`);
    }
    const tensors = knobTensors(this.bundle.knobs, values);
    const knobs = Object.fromEntries(this.bundle.knobs.map((knob) => [knob.name, knobValue(knob, values)]));
    return this.plan(null, { knobs, macsFraction: NaN, quality: null, reachable: true }, tensors, null);
  }

  private cached(key: string, make: () => Plan): Plan {
    let plan = this.kept.get(key);
    if (plan === undefined) {
      plan = make();
      if (this.kept.size >= PLANS_KEPT) this.kept.delete(this.kept.keys().next().value!);
      this.kept.set(key, plan);
    }
    return plan;
  }

  private solved(budget: Budget): Plan {
    const { meter } = BUDGET_KINDS[budget.kind];
    if (meter === "time") return this.forFraction(this.shares[1], budget);
    const point = meter === "nothing" ? this.everything() : this.lookedUp(budget);
    let message: string | null = null;
    if (!point.reachable) {
      message =
        `got a budget of ${budget}, but the cheapest calibrated point takes ` +
        `${general(point.macsFraction, 4)} of the dense work; ran that one`;
    }
    return this.plan(budget, point, knobTensors(this.bundle.knobs, point.knobs), message);
  }

  /** All knobs at their defaults. */
  private everything(): OperatingPoint {
    const knobs = Object.fromEntries(this.bundle.knobs.map((knob) => [knob.name, knob.default]));
    const full = this.bundle.budget_table?.full;
    return { knobs, macsFraction: full?.work ?? NaN, quality: full?.quality ?? null, reachable: true };
  }

  private lookedUp(budget: Budget): OperatingPoint {
    const table = this.bundle.budget_table;
    const rows = (budget.hard ? table?.hard : table?.soft) ?? [];
    if (rows.length === 0) throw this.uncalibrated(budget);
    const { knobs, work, quality, reachable } = lookUp(
      rows,
      shareOf(budget, Number(this.bundle.dense.macs)),
      this.dtypes,
    );
    return { knobs, macsFraction: work, quality, reachable };
  }

  private uncalibrated(budget: Budget): BudgetError {
    const got = `got a budget of ${budget}, but bundle ${quoted(this.bundle.name)} has`;
    const table = this.bundle.budget_table;
    if (budget.hard) {
      return new BudgetError(
        `${got} no calibrated point at which every sample takes the same work; export the model with its ` +
          "`capacity` (and `keep`) knobs and calibrate it for hard budgets, or ask for a soft one, without hard",
      );
    }
    if (table !== null && table.hard.length > 0) {
      return new BudgetError(
        `${got} points for hard budgets only; pass {hard: true}, calibrate it anew, or pass knobs`,
      );
    }
    if (this.bundle.curve.length > 0) {
      return new BudgetError(`${got} a curve and no budget_table; run \`adaptrt calibrate\` on it, or pass knobs`);
    }
    return new BudgetError(
      `${got} no calibrated curve; run \`adaptrt calibrate\` on it, use Budget.full(), or pass knobs`,
    );
  }

  private plan(
    budget: Budget | null,
    point: OperatingPoint,
    tensors: Map<string, Tensor>,
    message: string | null,
  ): Plan {
    const thresholds = tensors.get(THRESHOLDS_KNOB);
    tensors.delete(THRESHOLDS_KNOB);
    const soft = budget !== null && BUDGET_KINDS[budget.kind].meter === "work" && !budget.hard;
    return {
      budget,
      point,
      feeds: tensors,
      thresholds: thresholds === undefined ? [] : Array.from(thresholds.data as Float32Array),
      message,
      checked: soft && Number.isFinite(point.macsFraction),
      physical: false,
      everything: runsEverything(this.bundle.knobs, point.knobs),
    };
  }
}
