/** How long each stage takes, so that the next one is begun only if it will end in time. */

import { firstAbove, firstNotBelow } from "../control/sorted.js";

const KEPT = 256;
const PERCENTILE = 0.99;
/** On the percentile: 256 calls do not show the 257th. */
const MARGIN = 1.1;
/** Milliseconds from the last stage's end to the caller's having the result. */
const AFTERWARDS_MS = 0.05;

/** The latest times of one stage at about one number of rows. */
class Times {
  private readonly order: number[] = [];
  private readonly sorted: number[] = [];

  add(milliseconds: number): void {
    this.order.push(milliseconds);
    this.sorted.splice(firstAbove(this.sorted, milliseconds), 0, milliseconds);
    if (this.order.length > KEPT) this.sorted.splice(firstNotBelow(this.sorted, this.order.shift()!), 1);
  }

  get high(): number {
    return this.sorted[Math.min(Math.trunc(PERCENTILE * this.sorted.length), this.sorted.length - 1)]!;
  }
}

/** Times by stage and number of rows, rows counted in powers of two. */
export class StageTimes {
  /** For each stage the times by the power. */
  private readonly times: Map<number, Times>[] = [];

  /** Take in one run of a stage. */
  add(stage: number, rows: number, milliseconds: number): void {
    const seen = (this.times[stage] ??= new Map<number, Times>());
    const size = power(rows);
    const times = seen.get(size) ?? new Times();
    seen.set(size, times);
    times.add(milliseconds);
  }

  /** Whether every stage ran on about so many rows. */
  knows(stages: number, rows: number): boolean {
    return Array.from({ length: stages }, (_, stage) => this.times[stage]?.has(power(rows))).every(Boolean);
  }

  /**
   * Milliseconds that a stage takes at most, but for one call in a hundred; infinite where it never ran. Fewer rows
   * than were ever seen count as the next larger number that was.
   */
  high(stage: number, rows: number): number {
    const seen = this.times[stage];
    if (seen === undefined) return Infinity;
    const sizes = [...seen.keys()];
    const size = power(rows);
    const larger = sizes.filter((one) => one >= size);
    if (larger.length > 0) return seen.get(Math.min(...larger))!.high * MARGIN;
    const largest = Math.max(...sizes);
    return seen.get(largest)!.high * 2 ** (size - largest) * MARGIN;
  }
}

/** When one call's answer must be there. */
export class Deadline {
  /**
   * @param times what is known of the stages, taught by every stage that runs.
   * @param end milliseconds on `clock`.
   * @param clock milliseconds, monotonic.
   */
  constructor(
    private readonly times: StageTimes,
    private readonly end: number,
    readonly clock: () => number,
  ) {}

  /** Whether a stage begun now ends in time. */
  fits(stage: number, rows: number): boolean {
    return this.clock() + this.times.high(stage, rows) + AFTERWARDS_MS <= this.end;
  }

  /** Learn what a stage took. */
  took(stage: number, rows: number, milliseconds: number): void {
    this.times.add(stage, rows, milliseconds);
  }
}

/** The smallest power of two that is not below a number, as its exponent. */
function power(rows: number): number {
  return 32 - Math.clz32(Math.max(rows - 1, 0));
}
