/** What a network decided for each sample, put together from what its stages tell. */

import type { Bundle, DecisionSpec } from "./bundle/schema.js";
import type { Widths } from "./compaction.js";
import { BackendError, InputError } from "./errors.js";
import type { Sizes } from "./inputs.js";
import { quoted } from "./message_text.js";
import { filled, type Tensor, zeros } from "./tensor.js";

const GONE = -1;

/** What was decided about one set of tokens, by the position that a token had before any selection. */
export interface TokenDecisions {
  /**
   * int32 [batch, gates, tokens], how many learners each gate ran; -1 where the token was gone or the sample had
   * left.
   */
  readonly learners: Tensor;
  /** bool [batch, selections, tokens], which tokens each selection selected; 0, too, where the sample had left. */
  readonly kept: Tensor;
}

/** What was decided in one call, by the name of each set of tokens. */
export type Decisions = Readonly<Record<string, TokenDecisions>>;

/** Follows the tokens of one call through the stages. */
export class DecisionRecorder {
  /** Of the caller's samples, those still there. */
  private rows: number[];
  private readonly sets: ReadonlyMap<string, TokenSet>;
  private readonly masks: ReadonlyMap<string, string>;

  /**
   * @param sizes of every named axis of the inputs.
   * @param batch the axis that counts samples.
   * @throws InputError the bundle tells no decisions.
   */
  constructor(bundle: Bundle, sizes: Sizes, batch: string) {
    const decisions = bundle.stages.flatMap((stage) => stage.decisions);
    if (decisions.length === 0) {
      throw new InputError(
        `got decisions: true, but bundle ${quoted(bundle.name)} tells none; leave it out, or export a model with ` +
          "gates or token selection again",
      );
    }
    const samples = sizes[batch]!;
    this.rows = Array.from({ length: samples }, (_, row) => row);
    this.sets = new Map(
      [...new Set(decisions.map((decision) => decision.of))].map((name) => {
        const size = bundle.tokens[name]?.size ?? null;
        const tokens = typeof size === "string" ? sizes[size]! : size;
        return [
          name,
          new TokenSet(
            decisions.filter((decision) => decision.of === name),
            samples,
            tokens,
          ),
        ];
      }),
    );
    this.masks = new Map(
      Object.entries(bundle.tokens).flatMap(([name, { valid }]) => (valid === null ? [] : [[valid, name] as const])),
    );
  }

  /**
   * Take in one stage's decisions, in the order in which they happened.
   *
   * @throws BackendError they contradict each other or what earlier ones said.
   */
  record(decisions: readonly DecisionSpec[], tensors: Readonly<Record<string, Tensor>>): void {
    for (const decision of decisions) {
      const set = this.sets.get(decision.of)!;
      const of = (role: string): Tensor => tensors[decision.outputs[role]!]!;
      if (decision.kind === "learners") set.recordLearners(decision, of("runs"), this.rows);
      else set.recordSelection(decision, of("index"), of("count"), this.rows);
    }
  }

  /** Go on with some of the samples, and with the first tokens of those sets whose mask is named. */
  compact(rows: readonly number[], widths: Widths): void {
    this.rows = rows.map((row) => this.rows[row]!);
    const named = new Map([...widths].map(([mask, width]) => [this.masks.get(mask), width]));
    for (const [name, set] of this.sets) set.compact(rows, named.get(name));
  }

  /** Everything recorded. */
  result(): Decisions {
    return Object.fromEntries([...this.sets].map(([name, set]) => [name, set.result()]));
  }
}

/** One set of tokens, and what was decided about it. */
class TokenSet {
  private record: TokenDecisions | null = null;
  /** The first position of each token that is still there, -1 for padding, for each sample that is. */
  private index: number[][];

  constructor(
    private readonly decisions: readonly DecisionSpec[],
    private readonly batch: number,
    tokens: number | null,
  ) {
    this.index = Array.from({ length: batch }, () => []);
    if (tokens !== null) this.record = this.begin(tokens);
  }

  result(): TokenDecisions {
    return this.record ?? this.begin(0);
  }

  compact(rows: readonly number[], width: number | undefined): void {
    this.index = rows.map((row) => this.index[row]!.slice(0, width));
  }

  recordLearners(decision: DecisionSpec, { shape, data }: Tensor, rows: readonly number[]): void {
    const name = decision.outputs.runs!;
    const samples = rows.length;
    this.record ??= this.begin(Math.floor(data.length / Math.max(samples, 1)));
    const width = this.index[0]?.length ?? 0;
    const expected = decision.flat ? [samples * width] : [samples, width];
    const between = decision.flat ? " * " : ", ";
    expect(same(shape, expected), name, shape, `[${samples} samples${between}${width} tokens]`);
    const [, gates, tokens] = this.record.learners.shape as [number, number, number];
    const place = this.place(decision);
    for (const [row, index] of this.index.entries()) {
      for (const [column, first] of index.entries()) {
        if (first < 0) continue;
        this.record.learners.data[(rows[row]! * gates + place) * tokens + first] = data[row * width + column]!;
      }
    }
  }

  recordSelection(decision: DecisionSpec, index: Tensor, count: Tensor, rows: readonly number[]): void {
    const name = decision.outputs.index!;
    const samples = rows.length;
    const { shape } = index;
    expect(shape.length === 2 && shape[0] === samples, name, shape, `[${samples} samples, tokens]`);
    const width = shape[1]!;
    const counts = Array.from(count.data as Int32Array);
    const counted = same(count.shape, [samples]) && counts.every((one) => 0 <= one && one <= width);
    expect(counted, name, shape, "a count for each sample, not above the positions given");
    const there = this.index[0]?.length ?? 0;
    const selected = this.index.map((before, row) => {
      const positions = Array.from((index.data as Int32Array).subarray(row * width, row * width + counts[row]!));
      const firsts = positions.map((position) => before[position] ?? GONE);
      expect(
        firsts.every((first) => first >= 0),
        name,
        shape,
        `positions of some of the ${there} tokens there`,
      );
      return firsts;
    });
    if (this.record !== null) {
      const [, selections, tokens] = this.record.kept.shape as [number, number, number];
      const place = this.place(decision);
      for (const [row, firsts] of selected.entries()) {
        for (const first of firsts) this.record.kept.data[(rows[row]! * selections + place) * tokens + first] = 1;
      }
    }
    if (decision.nested) {
      this.index = selected.map((firsts) => [...firsts, ...new Array<number>(width - firsts.length).fill(GONE)]);
    }
  }

  /** Which of its kind a decision is, of those about this set. */
  private place(decision: DecisionSpec): number {
    return this.decisions.filter((one) => one.kind === decision.kind).indexOf(decision);
  }

  private begin(tokens: number): TokenDecisions {
    const number = (kind: string): number => this.decisions.filter((one) => one.kind === kind).length;
    this.index = Array.from({ length: this.batch }, () => Array.from({ length: tokens }, (_, token) => token));
    return {
      learners: filled("int32", [this.batch, number("learners"), tokens], GONE),
      kept: zeros("bool", [this.batch, number("selection"), tokens]),
    };
  }
}

function same(one: readonly number[], other: readonly number[]): boolean {
  return one.length === other.length && one.every((size, axis) => size === other[axis]);
}

function expect(fine: boolean, name: string, shape: readonly number[], expected: string): void {
  if (fine) return;
  throw new BackendError(
    `decisions: ${quoted(name)} [${shape.join(", ")}] does not follow from those before it, expected ${expected}; ` +
      "run `adaptrt verify` on the bundle, or leave decisions out",
  );
}
