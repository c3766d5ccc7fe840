/**
 * Calls the model, one call after the other, always with what holds when the call begins.
 *
 * Moving the slider or choosing another input therefore changes the very next call, and no call waits for one that
 * nobody needs any more.
 */

import type { Decisions } from "../../src/decisions.js";
import type { KnobValues } from "../../src/bundle/schema.js";
import type { Tensors } from "../../src/inputs.js";
import type { Result } from "../../src/result.js";
import type { WorkerModel } from "../../src/worker/worker_model.js";
import type { DenseAnswer } from "./dense_worker.js";

/** Milliseconds from the beginning of a call to that of the next while nothing changes. */
const INTERVAL_MS = 250;
/** Of so many calls one is followed by one of the dense model. */
const DENSE_EVERY = 3;

/** Who is told. */
export interface CallListener {
  onCall(result: Result): void;
  onDecisions(decisions: Decisions): void;
  onDense(answer: DenseAnswer): void;
  onError(error: unknown): void;
}

/** The loop. */
export class CallLoop {
  private inputs: Tensors | null = null;
  /** Whether calls go on while nothing changes. */
  private repeats = true;
  private changed = false;
  private going = false;
  private calls = 0;
  private timer = 0;
  /** What the drawn decisions and the dense answer are of. */
  private drawn = "";
  private answered: Tensors | null = null;

  /** @param dense runs the dense model; null: there is none. */
  constructor(
    private readonly model: WorkerModel,
    private readonly dense: ((inputs: Tensors) => Promise<DenseAnswer>) | null,
    private readonly listener: CallListener,
  ) {}

  /** Run these inputs from now on. */
  use(inputs: Tensors): void {
    this.inputs = inputs;
    this.drawn = "";
    this.change();
  }

  /** Something else holds, such as the model's budget. */
  change(): void {
    this.changed = true;
    this.wake(0);
  }

  /** Go on calling, or only where something changes. */
  repeat(repeats: boolean): void {
    this.repeats = repeats;
    if (repeats) this.wake(0);
    else clearTimeout(this.timer);
  }

  private wake(milliseconds: number): void {
    if (this.going) return;
    clearTimeout(this.timer);
    this.timer = window.setTimeout(() => void this.step(), milliseconds);
  }

  private async step(): Promise<void> {
    const { inputs } = this;
    if (this.going || inputs === null) return;
    this.going = true;
    this.changed = false;
    const start = performance.now();
    let failed = false;
    try {
      const result = await this.model.run(inputs);
      this.calls++;
      if (inputs === this.inputs) this.listener.onCall(result);
      if (!this.changed) await this.compare(inputs, result.knobs);
    } catch (error) {
      failed = true;
      if (inputs === this.inputs) this.listener.onError(error);
    } finally {
      this.going = false;
    }
    if (this.changed) this.wake(0);
    else if (this.repeats && !failed && !document.hidden) {
      const took = performance.now() - start;
      this.wake(Math.max(INTERVAL_MS - took, took / 2)); // a device that is slow is idle for a third of the time
    }
  }

  /** What was decided at these knobs, and the dense model's answer, where they are not known yet or to be timed. */
  private async compare(inputs: Tensors, knobs: KnobValues): Promise<void> {
    const key = JSON.stringify(knobs, (_, value: unknown) => (value === Infinity ? "inf" : value));
    if (this.tellsDecisions && key !== this.drawn) {
      const { decisions } = await this.model.run(inputs, { knobs, decisions: true });
      if (inputs !== this.inputs) return;
      this.drawn = key;
      this.listener.onDecisions(decisions!);
      if (this.changed) return;
    }
    if (this.dense === null || (this.answered === inputs && this.calls % DENSE_EVERY !== 0)) return;
    const answer = await this.dense(inputs);
    if (inputs !== this.inputs) return;
    this.answered = inputs;
    this.listener.onDense(answer);
  }

  private get tellsDecisions(): boolean {
    return this.model.bundle.stages.some(({ decisions }) => decisions.length > 0);
  }
}
