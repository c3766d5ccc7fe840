/**
 * Which share of work meets a target, call after call, while the device changes.
 *
 * Three things are told apart, each with a model of its own: what the device makes of the work (`DeviceModel`), how
 * much work the inputs take (`WorkloadModel`), and what single calls scatter (`QuantileMargin`). The choice follows
 * by solving them for the target. Time comes in as numbers: there is no clock inside.
 */

import { BudgetError } from "../errors.js";
import { shown } from "../message_text.js";
import { DeviceModel, type Finding } from "./device_model.js";
import { QuantileMargin } from "./margin.js";
import type { ResponseCurve } from "./response_curve.js";
import { WorkloadModel } from "./workload.js";

/** Of the curve's width per call; falling is not limited. */
const LARGEST_RISE = 0.1;
/** Of the curve's width: smaller changes are noise. */
const DEAD_BAND = 0.01;
/** Choices over the curve's width: an operating point is worked out once for each. */
const GRID = 256;
/** Calls: steps farther apart than that are exceptional. */
const STEPS_APART = 150;
/** Of calls that are told apart. */
const KINDS = 64;
const COLD_CALLS = 3;
const COLD_MEMORY = 0.7;
const COLD_JUMP = 2.5;
const ODD_MEMORY = 0.98;
/** Of the misses allowed: with chance, rarer outliers stay below it. */
const ODD_SHARE = 2;
/** Likewise, to begin with. */
const ODD_AFTER_STEP = 5;

/** What to run next. */
export interface Choice {
  /** Share of the dense model's work to ask for. */
  readonly fraction: number;
  /** Response that half of such calls stay under, in the target's unit. */
  readonly expected: number;
  /** Response that the wanted share of such calls stays under. */
  readonly upper: number;
  /** False where even the cheapest point is expected to miss the target. */
  readonly reachable: boolean;
  /** Which call after a pause it is, from 0; null for all later ones. */
  readonly cold: number | null;
  /** Whether it lies between the cheapest and the dearest point, so that another could be chosen. */
  readonly steered: boolean;
}

/** What a controller goes by. */
export interface ControllerSettings {
  /** Share of calls that are to stay under the target. */
  readonly percentile: number;
  /** Relative scatter of single calls in the profile. */
  readonly noise: number;
  /** How much longer the first calls after a pause take, as a factor for each. */
  readonly cold: readonly number[];
  /** Seconds without a call after which the next ones count as first ones. */
  readonly idleAfter?: number;
  /** The smallest and largest share of work to ask for; null takes the curve's ends. */
  readonly limits?: readonly [number, number] | null;
}

/**
 * Holds a percentile of the calls' latency, or energy, under a target.
 *
 * For every call: `choose` before it, `observe` after it. A call whose measurement is lost may be left out, and calls
 * may overlap: each is observed with its own choice.
 */
export class LatencyController {
  private readonly device: DeviceModel;
  private readonly margin: QuantileMargin;
  private readonly workload = new WorkloadModel();
  private readonly percentile: number;
  private readonly cold: number[];
  private readonly idleAfter: number;
  private readonly cheapest: number;
  private readonly full: number;
  private readonly width: number;
  /** Share chosen last for calls of a kind. */
  private readonly last = new Map<string, number>();
  private odd = 0;
  private ended: number | null = null;
  private sinceIdle = 0;
  private sinceStep = STEPS_APART;
  /** Of outliers: over what was expected, and whether missed. */
  private pending: { ratio: number; missed: boolean | null }[] = [];

  /**
   * @param target milliseconds or millijoules of a call, above 0; may be set anew.
   * @param curve the profile, in the same unit.
   * @throws BudgetError the target or the percentile is out of range.
   */
  constructor(
    public target: number,
    private readonly curve: ResponseCurve,
    { percentile, noise, cold, idleAfter = 0.25, limits = null }: ControllerSettings,
  ) {
    if (!(Number.isFinite(target) && target > 0)) {
      throw new BudgetError(`got a target of ${shown(target)}, expected a finite number above 0`);
    }
    if (!(0.5 <= percentile && percentile <= 0.999)) {
      throw new BudgetError(`got percentile=${shown(percentile)}, expected 0.5 to 0.999, such as 0.95`);
    }
    this.device = new DeviceModel(curve.at(curve.full), noise);
    this.margin = new QuantileMargin(percentile, noise);
    this.percentile = percentile;
    this.cold = Array.from({ length: COLD_CALLS }, (_, index) => cold[index] ?? 1);
    this.idleAfter = idleAfter;
    [this.cheapest, this.full] = limits ?? [curve.cheapest, curve.full];
    this.width = Math.max(this.full - this.cheapest, 1e-9);
  }

  /**
   * What to ask for, in a call that begins at `now` (seconds of any monotonic clock).
   *
   * @param scale what such a call takes over what the curve says, as for another batch size.
   */
  choose(now: number, scale = 1): Choice {
    if (this.ended === null || Math.abs(now - this.ended) > this.idleAfter) this.sinceIdle = 0;
    const cold = this.sinceIdle < COLD_CALLS ? this.sinceIdle : null;
    const margin = this.margin.factor;
    const goal = this.target / (margin * this.coldFactor(cold) * scale);
    const wanted = this.curve.fractionFor(this.device.profiledFor(goal)) / this.workload.ratio;
    const fraction = this.moved(Math.min(Math.max(wanted, this.cheapest), this.full), `${cold} ${scale}`);
    const expected = this.median(fraction, cold) * scale;
    return {
      fraction,
      expected,
      upper: expected * margin,
      reachable: this.median(this.cheapest, cold) * margin * scale <= this.target,
      cold,
      steered: this.cheapest < fraction && fraction < this.full,
    };
  }

  /**
   * Take in a call.
   *
   * @param now when it ended, on the clock of `choose`.
   * @param choice what was chosen for it.
   * @param done the share of work that was done.
   * @param measured what it took, in the target's unit. What cannot be (NaN, infinite, 0 or less, as when a clock
   *   jumps, or numbers of other orders than the curve's) is left out.
   * @param scale as for `choose`.
   */
  observe(now: number, choice: Choice, done: number, measured: number, scale = 1): void {
    if (this.passed(now, choice) || !this.curve.canBe(done, measured / scale)) return;
    const { cold } = choice;
    const expected = this.median(choice.fraction, cold) * scale;
    let finding: Finding = "ordinary";
    if (cold !== null) this.cold[cold] = learnedCold(this.cold[cold]!, (measured / expected) * this.cold[cold]!);
    else finding = this.device.observe(this.curve.at(done), measured / scale, this.odd);
    this.workload.observe(choice.fraction, done);
    this.correctMargin(finding, choice.steered, measured, expected);
  }

  /** A call ended of which nothing is to be learned but that it was; whether the clock has gone back since. */
  passed(now: number, choice: Choice): boolean {
    const goneBack = this.ended !== null && now < this.ended - this.idleAfter;
    this.ended = now;
    if (choice.cold !== null && !goneBack) this.sinceIdle = Math.max(this.sinceIdle, choice.cold + 1);
    return goneBack;
  }

  /** Outliers count once it is known that they are no step: the model answers for steps, the margin for them. */
  private correctMargin(finding: Finding, steered: boolean, measured: number, expected: number): void {
    this.sinceStep++;
    const missed = steered ? measured > this.target : null;
    const allowed = 1 - this.percentile;
    if (finding === "step") {
      // A step is the model's, not the margin's. But where steps come again and again, so do their misses.
      const lates = this.sinceStep < STEPS_APART ? [...this.pending.map((one) => one.missed), missed] : [];
      for (const late of lates) if (late !== null) this.margin.correct(late);
      this.sinceStep = 0;
      this.pending = [];
      // How calls scatter now is not known: as the profile said, and outliers may be part of it.
      this.margin.restart();
      this.odd = Math.max(this.odd, ODD_AFTER_STEP * allowed);
      return;
    }
    this.pending.push({ ratio: measured / expected, missed });
    if (finding !== "ordinary") return;
    for (const [index, one] of this.pending.entries()) {
      const odd = index + 1 < this.pending.length; // all before the ordinary one at the end
      this.odd += (1 - ODD_MEMORY) * (Number(odd) - this.odd);
      // As rare as misses may be, outliers are no reason to be careful; more often they are the scatter.
      if (!odd || this.odd > ODD_SHARE * allowed) this.margin.observe(one.ratio);
      if (one.missed !== null) this.margin.correct(one.missed);
    }
    this.pending = [];
  }

  /**
   * The choice on its grid, no more than one step up, and where it was if it hardly differs.
   *
   * Calls of different batch sizes, and first ones after a pause, each move on their own: what is known to cost more
   * says nothing of how fast the others may rise.
   */
  private moved(wanted: number, kind: string): number {
    const last = this.last.get(kind);
    if (last === undefined && this.last.size >= KINDS) this.last.clear();
    if (last !== undefined) {
      if (Math.abs(wanted - last) < DEAD_BAND * this.width) return last;
      wanted = Math.min(wanted, last + LARGEST_RISE * this.width);
    }
    let chosen = this.full;
    if (wanted < this.full - this.width / GRID) {
      const steps = Math.floor(((wanted - this.cheapest) / this.width) * GRID);
      chosen = this.cheapest + (Math.max(steps, 0) * this.width) / GRID;
    }
    this.last.set(kind, chosen);
    return chosen;
  }

  /** Expected response of a call at a share of work asked for. */
  private median(fraction: number, cold: number | null): number {
    return this.device.predict(this.curve.at(fraction * this.workload.ratio)) * this.coldFactor(cold);
  }

  private coldFactor(cold: number | null): number {
    return cold === null ? 1 : this.cold[cold]!;
  }
}

/** One spike moves it by half at most. */
function learnedCold(known: number, seen: number): number {
  return COLD_MEMORY * known + (1 - COLD_MEMORY) * Math.min(Math.max(seen, known / COLD_JUMP), known * COLD_JUMP);
}
