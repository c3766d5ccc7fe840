/** The engines of one loaded bundle: run in turn, checked. */

import { type OnnxruntimeEngine, type OrtTensor, tensorOf } from "./backends/onnxruntime.js";
import { batchAxis, type Bundle, MACS_OUTPUT } from "./bundle/schema.js";
import type { DecisionRecorder } from "./decisions.js";
import { Deadline, StageTimes } from "./device/stage_times.js";
import { outputsOfEmptyBatch } from "./empty_batch.js";
import { BudgetError } from "./errors.js";
import type { Sizes } from "./inputs.js";
import { quoted, shown } from "./message_text.js";
import { OutputContract } from "./outputs.js";
import { type Outputs, StageSequence } from "./stages.js";
import { filled, type Tensor } from "./tensor.js";

const LONGEST_MS = 1e15;
/** What a first estimate of the stages' times is made from. */
const STAGE_RUNS = 16;

/** What a batch came to; the exits are null in a bundle of one stage. */
export interface Answers {
  readonly outputs: Outputs;
  readonly exits: Int32Array | null;
}

/** The engines of one bundle. */
export class Engines {
  readonly batch: string | null;
  private readonly contract: OutputContract;
  private readonly stages: StageSequence;
  private readonly alone: OnnxruntimeEngine | null;
  private readonly names: readonly string[];
  private readonly times = new StageTimes();

  /**
   * @param engines one for each stage, in order.
   * @param dense runs the whole network where everything runs; null: the stages do.
   */
  constructor(
    private readonly bundle: Bundle,
    private readonly engines: readonly OnnxruntimeEngine[],
    private readonly dense: OnnxruntimeEngine | null,
  ) {
    this.batch = batchAxis(bundle);
    this.contract = new OutputContract(bundle.outputs);
    this.stages = new StageSequence(bundle, engines, this.batch);
    this.alone = engines.length === 1 ? engines[0]! : null;
    this.names = bundle.outputs.map((spec) => spec.name);
  }

  /** The engine and its version, as profiles are kept by. */
  get version(): string {
    return this.engines[0]!.version;
  }

  /** Whether the dense model's graph answers where everything runs, in the place of the stages. */
  get answersByDense(): boolean {
    return this.dense !== null;
  }

  /** A tensor as the engines take it. */
  value(tensor: Tensor): OrtTensor {
    return this.engines[0]!.value(tensor);
  }

  /**
   * Run a batch. No samples are answered without an engine.
   *
   * @param feeds inputs, already checked, and knobs.
   * @param sizes of every named axis of the inputs.
   * @param thresholds see `StageSequence.run`.
   * @throws BackendError an engine failed, or gave something that is not as the bundle says.
   */
  async run(
    feeds: Record<string, OrtTensor>,
    sizes: Sizes,
    thresholds: readonly number[],
    recorder: DecisionRecorder | null = null,
    deadline: Deadline | null = null,
  ): Promise<Answers> {
    let outputs = outputsOfEmptyBatch(this.bundle, this.batch, sizes);
    let exits: Int32Array | null = null;
    if (outputs !== null) {
      exits = this.alone === null ? new Int32Array(0) : null;
    } else if (this.alone !== null && recorder === null) {
      outputs = tensors(await this.alone.run(feeds, this.names), this.names);
    } else {
      const answers = await this.stages.run(feeds, sizes[this.batch ?? ""]!, thresholds, recorder, deadline);
      outputs = answers.outputs;
      exits = this.alone === null ? answers.exits : null;
    }
    this.contract.check(outputs, sizes);
    return { outputs, exits };
  }

  /** Run a batch through the one graph without early exits: all of the dense work, and all leave at the end. */
  async runDense(feeds: Record<string, OrtTensor>, sizes: Sizes): Promise<Answers> {
    const dense = this.dense!;
    const samples = sizes[this.batch ?? ""]!;
    if (samples === 0) return this.run(feeds, sizes, []);
    const taken: Record<string, OrtTensor> = {};
    for (const name of dense.inputs.keys()) taken[name] = feeds[name]!;
    const names = this.names.filter((name) => dense.outputs.has(name));
    const outputs = tensors(await dense.run(taken, names), names);
    outputs[MACS_OUTPUT] ??= filled("float32", [samples], 1);
    this.contract.check(outputs, sizes);
    return { outputs, exits: this.alone === null ? new Int32Array(samples).fill(this.engines.length - 1) : null };
  }

  /**
   * Refuse a deadline that is none, or that nothing can be done about.
   *
   * @throws BudgetError it is no finite number above 0, or there is one stage only.
   */
  checkDeadline(milliseconds: unknown): void {
    if (typeof milliseconds !== "number" || !(0 < milliseconds && milliseconds < LONGEST_MS)) {
      throw new BudgetError(
        `got deadlineMs=${shown(milliseconds)}, expected milliseconds, a finite number above 0; pass that`,
      );
    }
    if (this.alone !== null) {
      throw new BudgetError(
        `got a deadline, but bundle ${quoted(this.bundle.name)} has no exits to answer early at; use ` +
          "Budget.latency, or export a model with exits",
      );
    }
  }

  /** The deadline at `end`; where the stages' times are not known they are measured. Null for no samples. */
  async deadline(end: number, feeds: Record<string, OrtTensor>, sizes: Sizes): Promise<Deadline | null> {
    const rows = sizes[this.batch ?? ""]!;
    const stages = this.engines.length;
    const clock = (): number => performance.now();
    if (rows === 0) return null;
    if (!this.times.knows(stages, rows)) {
      const patient = new Deadline(this.times, Infinity, clock);
      const never = new Array<number>(stages - 1).fill(Infinity);
      for (let run = 0; run < STAGE_RUNS; run++) await this.stages.run(feeds, rows, never, null, patient);
    }
    return new Deadline(this.times, end, clock);
  }

  /** Free all sessions. */
  async close(): Promise<void> {
    for (const engine of [...this.engines, ...(this.dense === null ? [] : [this.dense])]) await engine.close();
  }
}

function tensors(values: Record<string, OrtTensor>, names: readonly string[]): Outputs {
  const outputs: Outputs = {};
  for (let index = 0; index < names.length; index++) outputs[names[index]!] = tensorOf(values[names[index]!]!);
  return outputs;
}
