/**
 * How far above its expectation a call may come out: the quantile that a percentile target needs.
 *
 * The quantile of recent ratios of measured to expected, at a level that is moved by what happened: every miss raises
 * it, every hit lowers it a little, so that in the long run the share of misses is the wanted one whatever the noise
 * looks like (adaptive conformal inference, Gibbs and Candes, arXiv 2106.00170, equation 2).
 */

import { normalQuantile } from "./normal_distribution.js";
import { firstAbove, firstNotBelow } from "./sorted.js";

const KEPT = 120;
const PRIOR_CALLS = 24;
const STEP = 0.012;
const LEVELS = [0.5, 0.998] as const;
/** Of the misses that are allowed: "at most" is promised, not "on average". */
const AIM = 0.85;

/** A factor, at least 1, between what is expected of a call and what may come. */
export class QuantileMargin {
  private level: number;
  private order: number[] = [];
  private sorted: number[] = [];

  /**
   * @param percentile share of calls that are to stay under their target, 0.5 to 0.999.
   * @param noise relative standard deviation to assume before there are measurements.
   */
  constructor(
    private readonly percentile: number,
    private readonly noise: number,
  ) {
    this.level = percentile;
    this.restart();
  }

  /** Forget the ratios, not the level: the next calls will scatter in another way. */
  restart(): void {
    const deviation = Math.max(this.noise, 1e-3);
    const prior = Array.from({ length: PRIOR_CALLS }, (_, i) => normalQuantile((i + 0.5) / PRIOR_CALLS, 1, deviation));
    this.order = prior.map((_, i) => prior[(i * 7) % PRIOR_CALLS]!);
    this.sorted = [...prior].sort((one, other) => one - other);
  }

  /** The quantile, between order statistics, counted so that few of them err to the careful side. */
  get factor(): number {
    const { sorted } = this;
    const place = this.level * (sorted.length + 1) - 1;
    const low = Math.min(Math.max(Math.trunc(place), 0), sorted.length - 1);
    const high = Math.min(low + 1, sorted.length - 1);
    const way = Math.min(Math.max(place - low, 0), 1);
    return Math.max(sorted[low]! + (sorted[high]! - sorted[low]!) * way, 1);
  }

  /** Take in measured over expected of one call. */
  observe(ratio: number): void {
    this.order.push(ratio);
    this.sorted.splice(firstAbove(this.sorted, ratio), 0, ratio);
    if (this.order.length > KEPT) this.sorted.splice(firstNotBelow(this.sorted, this.order.shift()!), 1);
  }

  /** Move the level by whether a call that could be steered missed its target. */
  correct(missed: boolean): void {
    const level = this.level + STEP * (Number(missed) - AIM * (1 - this.percentile));
    this.level = Math.min(Math.max(level, LEVELS[0]), LEVELS[1]);
  }
}
