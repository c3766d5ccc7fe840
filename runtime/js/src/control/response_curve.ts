/** What a call takes over the share of work it does, as a profile measured it. */

import { BudgetError } from "../errors.js";
import { lastAtMost } from "./sorted.js";

/** Times the dearest point's response, or its share of work: no call comes out so. */
const WILDEST = 1e6;

/** Piecewise linear, never falling; beyond its ends it goes on as its first and last pieces do, but not below 0. */
export class ResponseCurve {
  readonly responses: readonly number[];
  private readonly slopes: readonly number[];

  /**
   * @param fractions shares of the dense model's work, ascending.
   * @param responses milliseconds, or millijoules, of a call at each, above 0; made non-falling.
   * @throws BudgetError they are not as described, or fewer than one.
   */
  constructor(
    readonly fractions: readonly number[],
    responses: readonly number[],
  ) {
    if (fractions.length === 0 || fractions.length !== responses.length) {
      throw new BudgetError(
        `got ${fractions.length} shares of work with ${responses.length} measurements, expected as many`,
      );
    }
    if (![...fractions, ...responses].every((one) => Number.isFinite(one) && one > 0)) {
      throw new BudgetError(
        "got a profile with measurements that are not above 0, expected finite ones; profile again",
      );
    }
    if (fractions.some((one, index) => index > 0 && one <= fractions[index - 1]!)) {
      throw new BudgetError("got a profile whose shares of work do not ascend, expected ascending ones; profile again");
    }
    this.responses = nonFalling(responses);
    const slopes = this.responses.slice(1).map((response, index) => {
      return (response - this.responses[index]!) / (fractions[index + 1]! - fractions[index]!);
    });
    this.slopes = slopes.length > 0 ? slopes : [0];
  }

  /** The smallest share of work. */
  get cheapest(): number {
    return this.fractions[0]!;
  }

  /** The largest share of work. */
  get full(): number {
    return this.fractions.at(-1)!;
  }

  /** The response at a share of work. */
  at(fraction: number): number {
    const piece = this.piece(this.fractions, fraction);
    return Math.max(this.responses[piece]! + this.slopes[piece]! * (fraction - this.fractions[piece]!), 0);
  }

  /** Whether a call can have come out so: NaN, what is not above 0, and numbers of other orders cannot. */
  canBe(fraction: number, response: number): boolean {
    const usual = this.responses.at(-1)!;
    const near = usual / WILDEST < response && response < usual * WILDEST;
    return near && this.full / WILDEST < fraction && fraction < this.full * WILDEST;
  }

  /** The largest share of work whose response is at most this, at least 0; beyond the ends as `at` goes on. */
  fractionFor(response: number): number {
    const piece = this.piece(this.responses, response);
    const slope = this.slopes[piece]!;
    const start = this.responses[piece]!;
    if (slope === 0) return response < start ? 0 : Infinity; // level at an end: whatever fits there fits beyond
    return Math.max(this.fractions[piece]! + (response - start) / slope, 0);
  }

  private piece(values: readonly number[], value: number): number {
    return Math.min(Math.max(lastAtMost(values, value), 0), this.slopes.length - 1);
  }
}

/** The closest non-falling sequence in least squares (pool adjacent violators). */
function nonFalling(values: readonly number[]): number[] {
  const pools: { mean: number; count: number }[] = [];
  for (const value of values) {
    pools.push({ mean: value, count: 1 });
    for (;;) {
      const [before, last] = pools.slice(-2);
      if (before === undefined || last === undefined || before.mean <= last.mean) break;
      const count = before.count + last.count;
      pools.splice(-2, 2, { mean: (before.mean * before.count + last.mean * last.count) / count, count });
    }
  }
  return pools.flatMap(({ mean, count }) => new Array<number>(count).fill(mean));
}
