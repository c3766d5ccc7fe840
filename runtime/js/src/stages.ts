/**
 * Running a network stage after stage, while those samples leave that are sure enough.
 *
 * After each stage but the last, a sample leaves if the confidence of that stage's head is strictly above its
 * threshold; one whose confidence is NaN is not confident and stays. What the others carry to the next stage is
 * compacted to them. Where nobody leaves, the tensors go on as they are, without a copy.
 */

import { type OnnxruntimeEngine, type OrtTensor, tensorOf } from "./backends/onnxruntime.js";
import { type Bundle, type Carry, CONFIDENCE_OUTPUT, type DecisionSpec } from "./bundle/schema.js";
import { Compaction } from "./compaction.js";
import type { DecisionRecorder } from "./decisions.js";
import type { Deadline } from "./device/stage_times.js";
import { OutputError } from "./errors.js";
import { quoted } from "./message_text.js";
import { assembled, takeRows } from "./tensor_rows.js";
import type { Tensor } from "./tensor.js";

type Values = Record<string, OrtTensor>;
export type Outputs = Record<string, Tensor>;

/** One stage, and what goes into and comes out of it. */
interface Step {
  readonly engine: OnnxruntimeEngine;
  /** Its name, for messages. */
  readonly file: string;
  /** The bundle's inputs and knobs that it takes. */
  readonly given: readonly string[];
  /** Its outputs of the bundle, its confidence if another stage follows, and what that one takes. */
  readonly fetched: readonly string[];
  /** What is wanted of it where nobody can leave. */
  readonly handed: readonly string[];
  /** Those that are told on request, and the outputs that tell them. */
  readonly decisions: readonly DecisionSpec[];
  readonly disclosed: readonly string[];
  /** What the next stage takes from it; empty after the last. */
  readonly carried: readonly Carry[];
  /** What the next stage takes of the bundle's inputs under names of its own. */
  readonly passed: readonly Carry[];
  /** Of both. */
  readonly compaction: Compaction;
  /** The inputs with a batch axis that stages after this one take. */
  readonly later: readonly string[];
}

/** The stages of one bundle. */
export class StageSequence {
  private readonly outputs: readonly string[];
  private readonly steps: readonly Step[];
  private readonly passed: readonly string[];
  private readonly engine: OnnxruntimeEngine;

  /**
   * @param engines one for each stage, in order.
   * @param batch the axis that counts samples; null where their number is fixed.
   */
  constructor(bundle: Bundle, engines: readonly OnnxruntimeEngine[], batch: string | null) {
    this.outputs = bundle.outputs.map((spec) => spec.name);
    this.engine = engines[0]!;
    const names = [...bundle.inputs, ...bundle.knobs].map((one) => one.name);
    const inputs = new Set(bundle.inputs.map((spec) => spec.name));
    const perSample = bundle.inputs.filter((spec) => spec.shape[0] === batch).map((spec) => spec.name);
    const masks = new Set(
      Object.values(bundle.tokens)
        .map((tokens) => tokens.valid)
        .filter((valid) => valid !== null),
    );
    const whole = new Set(bundle.outputs.flatMap((spec) => spec.shape));
    this.steps = bundle.stages.map((stage, number) => {
      const engine = engines[number]!;
      const after = bundle.stages[number + 1]?.carry ?? [];
      const results = after.length > 0 ? [...this.outputs, CONFIDENCE_OUTPUT] : this.outputs;
      const carried = after.filter((carry) => !inputs.has(carry.source));
      const handed = carried.map((carry) => carry.source);
      const later = engines.slice(number + 1);
      return {
        engine,
        file: stage.file,
        given: names.filter((name) => engine.inputs.has(name)),
        fetched: [...new Set([...results, ...handed])],
        handed: [...new Set(handed.length > 0 ? handed : results)],
        decisions: stage.decisions,
        disclosed: stage.decisions.flatMap((decision) => Object.values(decision.outputs)),
        carried,
        passed: after.filter((carry) => inputs.has(carry.source)),
        compaction: new Compaction(after, masks, whole),
        later: perSample.filter((name) => later.some((one) => one.inputs.has(name))),
      };
    });
    this.passed = [...new Set(this.steps.flatMap((step) => step.passed.map((carry) => carry.source)))];
  }

  /**
   * Run a batch.
   *
   * @param given inputs, already checked, and knobs.
   * @param samples at least one.
   * @param thresholds for each stage but the last, the confidence above which a sample leaves; infinity lets none
   *   leave, and spares the comparison.
   * @param deadline a stage that would not end by it is not begun: all leave before; the first always runs.
   * @returns in the caller's order, every output of the bundle by name, and the stage at whose head each sample left.
   * @throws BackendError an engine failed, or gave something that is not as the bundle says.
   */
  async run(
    given: Values,
    samples: number,
    thresholds: readonly number[],
    recorder: DecisionRecorder | null,
    deadline: Deadline | null = null,
  ): Promise<{ outputs: Outputs; exits: Int32Array }> {
    given = { ...given };
    const passed: Values = {};
    for (const name of this.passed) passed[name] = given[name]!;
    let feeds: Values = {};
    const assembly = new Assembly(samples);
    for (const [number, step] of this.steps.entries()) {
      const threshold = thresholds[number] ?? Infinity;
      const last = number + 1 === this.steps.length;
      for (const name of step.given) feeds[name] = given[name]!;
      // Where nobody can leave, nobody reads what the head says: each output fetched costs time.
      const unread = threshold === Infinity && deadline === null;
      const { there } = assembly;
      const begun = deadline?.clock() ?? 0;
      const got = await execute(step, feeds, unread ? step.handed : step.fetched, recorder);
      deadline?.took(number, there, deadline.clock() - begun);
      let staying = last ? [] : assembly.everybody();
      if (threshold !== Infinity) staying = stayingRows(output(step, got, CONFIDENCE_OUTPUT, there, 1), threshold);
      const late = deadline !== null && staying.length > 0 && !deadline.fits(number + 1, staying.length);
      if (staying.length === 0 || late) {
        assembly.leave(step, this.part(step, got, there), []);
        break;
      }
      if (staying.length < there) {
        assembly.leave(step, this.part(step, got, there), staying);
        feeds = this.compacted(step, got, given, passed, staying, there, recorder);
      } else {
        feeds = this.handedOn(step, got, passed);
      }
      assembly.stage++;
    }
    return assembly.result();
  }

  /** The bundle's outputs at this stage, for all samples that reached it. */
  private part(step: Step, got: Values, there: number): Outputs {
    const part: Outputs = {};
    for (const name of this.outputs) part[name] = output(step, got, name, there, null);
    return part;
  }

  /** What the next stage takes, where all samples go on. */
  private handedOn(step: Step, got: Values, passed: Values): Values {
    const feeds: Values = {};
    for (const { name, source } of step.carried) feeds[name] = got[source]!;
    for (const { name, source } of step.passed) feeds[name] = passed[source]!;
    for (const { name } of step.passed) {
      const axes = step.compaction.tokenAxes.get(name)!;
      if (axes.length === 0) continue; // else an earlier stage may have cut the tokens that lie beside it
      const widths = new Map(axes.map(({ mask }) => [mask, feeds[mask]!.dims[1]!]));
      const whole = tensorOf(feeds[name]!);
      const cut = step.compaction.cut(name, whole, widths);
      if (cut !== whole) feeds[name] = this.engine.value(cut);
    }
    return feeds;
  }

  /** What is carried on, and in `given` and `passed` the inputs for later stages, for `rows` alone. */
  private compacted(
    step: Step,
    got: Values,
    given: Values,
    passed: Values,
    rows: readonly number[],
    there: number,
    recorder: DecisionRecorder | null,
  ): Values {
    const tensors = new Map(step.carried.map((c) => [c.name, output(step, got, c.source, there, c.shape.length)]));
    if (step.passed.length > 0) {
      const whole = this.handedOn(step, got, passed);
      for (const { name } of step.passed) tensors.set(name, tensorOf(whole[name]!));
    }
    const { kept, widths } = step.compaction.apply(tensors, rows);
    for (const name of step.later) given[name] = this.engine.value(takeRows(tensorOf(given[name]!), rows));
    const values: Values = {};
    for (const [name, tensor] of kept) values[name] = this.engine.value(tensor);
    const cut = new Map(step.passed.map(({ name, source }) => [source, values[name]!]));
    for (const [name, value] of Object.entries(passed)) {
      passed[name] = cut.get(name) ?? this.engine.value(takeRows(tensorOf(value), rows));
    }
    recorder?.compact(rows, widths);
    return values;
  }
}

/** The outputs of the samples that have left. */
class Assembly {
  /** Number of the stage that runs. */
  stage = 0;
  /** How many samples it runs on. */
  there: number;
  /** Of the caller's samples those still there; null while all are. */
  private rows: readonly number[] | null = null;
  private readonly left: { stage: number; part: Outputs; rows: readonly number[]; places: readonly number[] }[] = [];

  constructor(private readonly samples: number) {
    this.there = samples;
  }

  /** All rows that are there. */
  everybody(): number[] {
    return Array.from({ length: this.there }, (_, row) => row);
  }

  /** Take the outputs of those of the samples there that do not stay. */
  leave(step: Step, part: Outputs, staying: readonly number[]): void {
    const first = this.left[0]?.part;
    for (const [name, { dtype, shape }] of Object.entries(part)) {
      const before = first?.[name];
      if (before === undefined) continue;
      const alike = before.dtype === dtype && before.shape.slice(1).join() === shape.slice(1).join();
      if (!alike) throw wrong(step, name, part[name]!, ["batch", ...before.shape.slice(1)]);
    }
    const gone = this.rows ?? this.everybody();
    const stay = new Set(staying);
    const rows = this.everybody().filter((row) => !stay.has(row));
    this.left.push({ stage: this.stage, part, rows, places: rows.map((row) => gone[row]!) });
    this.rows = staying.map((row) => gone[row]!);
    this.there = staying.length;
  }

  /** In the caller's order, every output of the bundle, and the stage each sample left at. */
  result(): { outputs: Outputs; exits: Int32Array } {
    const exits = new Int32Array(this.samples);
    for (const { stage, places } of this.left) for (const place of places) exits[place] = stage;
    const [first] = this.left;
    if (this.left.length === 1) return { outputs: first!.part, exits };
    const outputs: Outputs = {};
    for (const name of Object.keys(first!.part)) {
      outputs[name] = assembled(
        this.left.map(({ part, rows, places }) => ({ tensor: part[name]!, rows, places })),
        this.samples,
      );
    }
    return { outputs, exits };
  }
}

/** The rows whose confidence is not above the threshold, which is a float32; NaN is not. */
function stayingRows({ data }: Tensor, threshold: number): number[] {
  const rows: number[] = [];
  for (let row = 0; row < data.length; row++) if (!(data[row]! > threshold)) rows.push(row);
  return rows;
}

async function execute(
  step: Step,
  feeds: Values,
  wanted: readonly string[],
  recorder: DecisionRecorder | null,
): Promise<Values> {
  if (recorder === null) return step.engine.run(feeds, wanted);
  const got = await step.engine.run(feeds, [...wanted, ...step.disclosed]);
  recorder.record(step.decisions, Object.fromEntries(step.disclosed.map((name) => [name, tensorOf(got[name]!)])));
  return got;
}

/** An output, with an entry for each sample that the stage ran on. */
function output(step: Step, got: Values, name: string, there: number, rank: number | null): Tensor {
  const tensor = tensorOf(got[name]!);
  if (tensor.shape[0] !== there || (rank !== null && tensor.shape.length !== rank)) {
    throw wrong(step, name, tensor, rank === null ? [there, "..."] : [there, ...new Array<string>(rank - 1).fill("?")]);
  }
  return tensor;
}

function wrong(
  step: Step,
  name: string,
  { dtype, shape }: Tensor,
  expected: readonly (number | string)[],
): OutputError {
  return new OutputError(
    `${step.file}: ${quoted(name)} came out as ${dtype} [${shape.join(", ")}], expected [${expected.join(", ")}]; ` +
      "run `adaptrt verify` on the bundle, or export the model again",
  );
}
