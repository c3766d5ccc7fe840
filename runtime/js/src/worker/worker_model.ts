/** The page's side: a model that runs in a worker, so that the page stays smooth. */

import type { Bundle } from "../bundle/schema.js";
import { Budget } from "../control/budget.js";
import type { Profile } from "../device/profile.js";
import { BackendError, errorNamed } from "../errors.js";
import type { Tensors } from "../inputs.js";
import type { LoadProgress } from "../loading.js";
import type { ProfileOptions, RunOptions } from "../model.js";
import { type OperatingPoint, Planner } from "../plan.js";
import type { Result } from "../result.js";
import type { Answers, ModelBudget, ReplyMessage, Request, WorkerSettings } from "./protocol.js";

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: unknown): void;
  progress(progress: LoadProgress | number): void;
}

/** Requests to a worker, and their answers. */
class Connection {
  private readonly waiting = new Map<number, Waiting>();
  private count = 0;
  private broken: BackendError | null = null;

  constructor(private readonly worker: Worker) {
    worker.addEventListener("message", ({ data }: MessageEvent<ReplyMessage>) => this.take(data));
    worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.fail(`got an error of the worker (${event.message || "it could not be started"})`);
    });
    worker.addEventListener("messageerror", () => this.fail("got an answer of the worker that cannot be read"));
  }

  ask<T extends Request["type"]>(
    request: Extract<Request, { type: T }>,
    progress: Waiting["progress"] = () => undefined,
  ): Promise<Answers[T]> {
    if (this.broken !== null) return Promise.reject(this.broken);
    const id = ++this.count;
    return new Promise<Answers[T]>((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as Waiting["resolve"], reject, progress });
      try {
        this.worker.postMessage({ ...request, id });
      } catch (error) {
        this.waiting.delete(id);
        reject(error as Error); // something that cannot be sent, such as a function among the inputs
      }
    });
  }

  end(why: string): void {
    this.worker.terminate();
    this.fail(why);
  }

  private take(reply: ReplyMessage): void {
    const waiting = this.waiting.get(reply.id);
    if (waiting === undefined) return;
    if (reply.type === "progress") {
      waiting.progress(reply.progress);
      return;
    }
    this.waiting.delete(reply.id);
    if (reply.type === "answer") waiting.resolve(reply.answer);
    else waiting.reject(errorNamed(reply.name, reply.message));
  }

  private fail(why: string): void {
    this.broken ??= new BackendError(`${why}, expected an answer; load the bundle again`);
    for (const { reject } of this.waiting.values()) reject(this.broken);
    this.waiting.clear();
  }
}

/**
 * A bundle loaded in a worker; make it with `loadInWorker`. What `AdaptiveModel` does, this does, too.
 *
 * A call sees the budget that holds when it is made, however many are waiting: moving a slider changes the very next
 * call.
 */
export class WorkerModel {
  private readonly planner: Planner;
  private modelBudget: ModelBudget = { fields: { kind: "full" }, version: 0 };
  private own = Budget.full();

  private constructor(
    private readonly connection: Connection,
    /** What `bundle.json` says. */
    readonly bundle: Bundle,
    /** The engine and its version. */
    readonly engine: string,
    /** Whether the dense model's graph answers where everything runs, in the place of the stages. */
    readonly answersByDense: boolean,
  ) {
    this.planner = new Planner(bundle);
  }

  /** Have a worker load a bundle; see `loadInWorker`. */
  static async load(
    worker: Worker,
    address: string,
    settings: WorkerSettings,
    options: { readonly onProgress?: (progress: LoadProgress) => void; readonly signal?: AbortSignal },
  ): Promise<WorkerModel> {
    const connection = new Connection(worker);
    const { signal, onProgress } = options;
    const end = (): void => connection.end("the loading was ended");
    signal?.throwIfAborted();
    signal?.addEventListener("abort", end);
    try {
      const told = (progress: LoadProgress | number): void => onProgress?.(progress as LoadProgress);
      const { bundle, engine, answersByDense } = await connection.ask({ type: "load", address, settings }, told);
      return new WorkerModel(connection, bundle, engine, answersByDense);
    } catch (error) {
      connection.end("the bundle was not loaded");
      signal?.throwIfAborted();
      throw error;
    } finally {
      signal?.removeEventListener("abort", end);
    }
  }

  /** The budget of calls that name none; `Budget.full()` at first. Setting it throws where the bundle cannot obey. */
  get budget(): Budget {
    return this.own;
  }

  set budget(budget: Budget) {
    this.planner.forBudget(budget);
    this.own = budget;
    this.modelBudget = { fields: budget, version: this.modelBudget.version + 1 };
  }

  /** What a call under `budget` (left out, the model's own) would run, and what to expect of it. */
  operatingPoint(budget: Budget = this.own): OperatingPoint {
    return this.planner.forBudget(budget).point;
  }

  /** Run a batch; see `AdaptiveModel.run`. The inputs are copied to the worker, a deadline counts from there. */
  async run(inputs: Tensors, options: RunOptions = {}): Promise<Result> {
    const { budget, knobs, decisions = false, deadlineMs = null } = options;
    if (knobs !== undefined) this.planner.forKnobs(knobs, budget ?? null);
    else if (budget !== undefined) this.planner.forBudget(budget);
    const result = await this.connection.ask({
      type: "run",
      inputs,
      modelBudget: this.modelBudget,
      budget: budget ?? null,
      knobs: knobs ?? null,
      decisions,
      deadlineMs,
    });
    return { ...result, budget: result.budget === null ? null : Budget.of(result.budget) };
  }

  /** Measure what calls take on this device; see `AdaptiveModel.profile`. */
  async profile(inputs: Tensors, options: ProfileOptions = {}): Promise<Profile> {
    const told = (share: LoadProgress | number): void => options.onProgress?.(share as number);
    return this.connection.ask({ type: "profile", inputs, seconds: options.seconds ?? null }, told);
  }

  /** Use a profile that was measured before; see `AdaptiveModel.useProfile`. */
  async useProfile(profile: Profile): Promise<void> {
    await this.connection.ask({ type: "useProfile", profile });
  }

  /** End the worker, after the calls that were made. */
  async close(): Promise<void> {
    await this.connection.ask({ type: "close" }).catch(() => undefined);
    this.connection.end(`got a call of ${this.bundle.name} after close()`);
  }
}
