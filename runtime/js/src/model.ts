/** Running a loaded bundle under a budget. */

import type { OrtTensor } from "./backends/onnxruntime.js";
import { type Bundle, type KnobValues, MACS_OUTPUT } from "./bundle/schema.js";
import { Budget } from "./control/budget.js";
import { mean } from "./control/sorted.js";
import { DecisionRecorder } from "./decisions.js";
import { LatencyBudgets, type Ticket } from "./device/latency_budgets.js";
import {
  checkProfile,
  measureProfile,
  type Profile,
  type ProfileKey,
  profiledShares,
  SECONDS,
} from "./device/profile.js";
import type { Engines } from "./engines.js";
import { BackendError, InputError } from "./errors.js";
import { InputContract, type Sizes, type Tensors } from "./inputs.js";
import { quoted } from "./message_text.js";
import { type OperatingPoint, type Plan, Planner } from "./plan.js";
import type { Result } from "./result.js";
import type { Tensor } from "./tensor.js";
import { SoftBudgetCheck } from "./work_check.js";

/** How one call is run. */
export interface RunOptions {
  /** For this call; left out, the model's. */
  readonly budget?: Budget;
  /** Values to feed instead of obeying a budget; those not named stand at their defaults. */
  readonly knobs?: KnobValues;
  /** Also tell what was computed for each token. */
  readonly decisions?: boolean;
  /**
   * Milliseconds from the call's entry by which the answer must be there: a further stage is run only while it is
   * expected to end in time, and what the last head said is returned. The first stage always runs. The first call of a
   * batch size with a deadline measures the stages, and is late.
   */
  readonly deadlineMs?: number;
}

/** How a profile is measured. */
export interface ProfileOptions {
  /** To measure for, about; warming up and pauses come on top. */
  readonly seconds?: number;
  /** Told the share that is done. */
  readonly onProgress?: (share: number) => void;
}

/** What a profile holds for, but for the batch. */
export type DeviceKey = Omit<ProfileKey, "batch">;

/** A call that passed its checks. */
interface Call {
  readonly plan: Plan;
  readonly feeds: Record<string, Tensor>;
  readonly sizes: Sizes;
  readonly recorder: DecisionRecorder | null;
  /** When the answer must be there, on the clock of `performance.now`; null: whenever it is. */
  readonly deadline: number | null;
}

/**
 * A loaded bundle; make it with `load`.
 *
 * A call sees one budget from beginning to end: its own, or the one that `budget` held when it began. Calls run one
 * after the other, in the order in which they were made.
 */
export class AdaptiveModel {
  private readonly contract: InputContract;
  private readonly planner: Planner;
  private readonly latency: LatencyBudgets;
  private readonly work = new SoftBudgetCheck();
  private readonly values = new WeakMap<Plan["feeds"], Record<string, OrtTensor>>();
  private plan: Plan;
  /** Whether a call is going on, and what begins those that wait for it. */
  private busy = false;
  private readonly waiting: (() => void)[] = [];
  private closed = false;

  /** @param device what profiles of this model hold for. */
  constructor(
    /** What `bundle.json` says. */
    readonly bundle: Bundle,
    private readonly engines: Engines,
    private readonly device: DeviceKey,
  ) {
    this.contract = new InputContract(bundle.inputs, bundle.axes);
    this.planner = new Planner(bundle);
    this.latency = new LatencyBudgets(this.planner);
    this.plan = this.planner.forBudget(Budget.full());
  }

  /** The engine and its version. */
  get engine(): string {
    return this.engines.version;
  }

  /** Whether the dense model's graph answers where everything runs, in the place of the stages. */
  get answersByDense(): boolean {
    return this.engines.answersByDense;
  }

  /** The budget of calls that name none; `Budget.full()` at first. Setting it throws where the bundle cannot obey. */
  get budget(): Budget {
    return this.plan.budget ?? Budget.full();
  }

  set budget(budget: Budget) {
    this.plan = this.planner.forBudget(budget);
    this.latency.reset();
    this.work.reset();
  }

  /** What a call under `budget` (left out, the model's own) would run, and what to expect of it. */
  operatingPoint(budget: Budget = this.budget): OperatingPoint {
    return this.planner.forBudget(budget).point;
  }

  /**
   * Run a batch.
   *
   * A sample leaves at the first stage whose confidence is strictly above the stage's threshold in `exit_thresholds`;
   * the last stage takes the rest. One whose confidence is NaN stays. The first call under a budget of time measures
   * a profile, and is late, unless there is one.
   *
   * @param inputs a tensor for every input of the bundle, exactly of its dtype and shape. The batch may be empty.
   * @throws InputError an input or knob value is not what the bundle declares, or decisions are asked of a bundle that
   *   tells none.
   * @throws BudgetError the bundle cannot obey the budget, both a budget and knobs are given, or there is a deadline
   *   and the bundle has no exits.
   * @throws BackendError an engine failed.
   */
  async run(inputs: Tensors, options: RunOptions = {}): Promise<Result> {
    const call = this.checked(inputs, options);
    const { plan, sizes } = call;
    if (this.busy) await this.turn();
    this.busy = true;
    try {
      if (!plan.physical || Object.values(sizes).includes(0)) return await this.execute(call, null);
      if (this.latency.profile === null) await this.measured(inputs, this.samples(sizes), {});
      const forCall = options.budget !== undefined;
      const ticket = this.latency.begin(plan.budget!, this.samples(sizes), performance.now() / 1e3, forCall);
      return await this.execute({ ...call, plan: ticket.plan }, ticket);
    } finally {
      this.end();
    }
  }

  /**
   * Measure what calls take on this device, and use it for budgets of time. The answer is plain values: kept as JSON,
   * and handed to `useProfile` when the bundle is loaded again, it spares the measuring.
   *
   * @param inputs a batch like those to come.
   * @throws InputError an input is not what the bundle declares, or the batch is empty.
   * @throws BudgetError the bundle has no curve.
   * @throws BackendError an engine failed.
   */
  async profile(inputs: Tensors, options: ProfileOptions = {}): Promise<Profile> {
    const { sizes } = this.contract.check(inputs);
    if (Object.values(sizes).includes(0)) {
      throw new InputError("got an empty batch to profile, expected at least one sample; give some");
    }
    if (this.busy) await this.turn();
    this.busy = true;
    try {
      return await this.measured(inputs, this.samples(sizes), options);
    } finally {
      this.end();
    }
  }

  /**
   * Use a profile that was measured before.
   *
   * @throws BudgetError it is of another bundle, engine, number of threads or processors, or none at all.
   */
  async useProfile(profile: Profile): Promise<void> {
    checkProfile(profile, { ...this.device, batch: profile?.key?.batch });
    this.latency.use(profile);
  }

  /** Free the engines, after the calls that were made. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    if (this.busy) await this.turn();
    await this.engines.close();
  }

  private checked(inputs: Tensors, options: RunOptions): Call {
    const entry = performance.now();
    const { budget, knobs, decisions = false, deadlineMs } = options;
    if (this.closed) throw new BackendError(`got a call of ${quoted(this.bundle.name)} after close(); load it again`);
    let { plan } = this;
    if (knobs !== undefined) plan = this.planner.forKnobs(knobs, budget ?? null);
    else if (budget !== undefined) plan = this.planner.forBudget(budget);
    const { feeds, sizes } = this.contract.check(inputs);
    if (deadlineMs !== undefined) this.engines.checkDeadline(deadlineMs);
    const deadline = deadlineMs === undefined ? null : entry + deadlineMs;
    const recorder = decisions ? new DecisionRecorder(this.bundle, sizes, this.engines.batch ?? "") : null;
    return { plan, feeds, sizes, recorder, deadline };
  }

  /** Wait until all that was begun before has ended. */
  private turn(): Promise<void> {
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** What was going on has ended: what has waited longest begins, and nothing comes before it. */
  private end(): void {
    const next = this.waiting.shift();
    if (next === undefined) this.busy = false;
    else next();
  }

  private async execute({ plan, feeds, sizes, recorder, deadline }: Call, ticket: Ticket | null): Promise<Result> {
    const values: Record<string, OrtTensor> = {};
    for (const name in feeds) values[name] = this.engines.value(feeds[name]!);
    Object.assign(values, this.knobValues(plan));
    const start = performance.now();
    const held = deadline === null ? null : await this.engines.deadline(deadline, values, sizes);
    const dense = plan.everything && this.engines.answersByDense && recorder === null && held === null;
    const { outputs, exits } = dense
      ? await this.engines.runDense(values, sizes)
      : await this.engines.run(values, sizes, plan.thresholds, recorder, held);
    const end = performance.now();
    const latencyMs = end - start;
    const macsFraction = outputs[MACS_OUTPUT]!.data as Float32Array;
    delete outputs[MACS_OUTPUT];
    if (ticket !== null) this.latency.end(ticket, mean(macsFraction), latencyMs, end / 1e3);
    const { point, budget } = plan;
    let { message } = plan;
    const deadlineMet = deadline === null ? null : end <= deadline;
    if (plan.checked && deadline === null && macsFraction.length > 0)
      message ??= this.work.observe(point.macsFraction, macsFraction);
    return {
      outputs,
      macsFraction,
      latencyMs,
      budget,
      knobs: point.knobs,
      reachable: point.reachable,
      message,
      exit: exits,
      decisions: recorder === null ? null : recorder.result(),
      expected: ticket === null ? null : ticket.expected,
      deadlineMet,
      targetMet: deadlineMet ?? (plan.physical && budget !== null ? latencyMs <= budget.value : null),
    };
  }

  /** A plan's knobs as the engines take them, made once for each plan. */
  private knobValues(plan: Plan): Record<string, OrtTensor> {
    let values = this.values.get(plan.feeds);
    if (values === undefined) {
      values = Object.fromEntries([...plan.feeds].map(([name, tensor]) => [name, this.engines.value(tensor)]));
      this.values.set(plan.feeds, values);
    }
    return values;
  }

  private samples(sizes: Sizes): number {
    return this.engines.batch === null ? 1 : sizes[this.engines.batch]!;
  }

  private async measured(inputs: Tensors, samples: number, options: ProfileOptions): Promise<Profile> {
    const points = profiledShares(this.planner.shares).map((share) => {
      return { share, point: this.planner.forBudget(Budget.fraction(share)).point };
    });
    const knobs = new Map(points.map(({ share, point }) => [share, point.knobs]));
    const profile = await measureProfile(
      {
        call: async (share) => {
          const result = await this.execute(this.checked(inputs, { knobs: knobs.get(share)! }), null);
          return { done: mean(result.macsFraction), milliseconds: result.latencyMs };
        },
        clock: () => performance.now(),
        sleep: (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds)),
        progress: options.onProgress ?? (() => undefined),
        seconds: options.seconds ?? SECONDS,
      },
      points.map(({ share, point }) => ({ share, quality: point.quality })),
      { ...this.device, batch: samples },
    );
    this.latency.use(profile);
    return profile;
  }
}
