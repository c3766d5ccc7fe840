/**
 * What the device makes of its profile: an affine model that follows drift, steps over outliers and catches steps.
 *
 * A Kalman filter over `response = a + b * profiled`, which is recursive least squares with forgetting whose forgetting
 * has a direction: a device that heats up or shares its cores slows everything by the same factor, so uncertainty grows
 * along (a, b) and hardly across it. Plain forgetting would forget the slope whenever the choice stands still, and then
 * mistake the effect of its own next choice for drift.
 */

import { median } from "./sorted.js";

/** Standard deviation of the common factor's change, per call. */
const DRIFT = 0.005;
/** Of a's and b's own changes, per call, as shares of the profile's scale. */
const SHAPE = 0.001;
/** Standard deviations of a and b before the first call, likewise. */
const PRIOR = [0.03, 0.15] as const;
/** That the common factor is uncertain by after a step. */
const AFTER_STEP = 0.15;
/** Standard deviations from where on an observation changes nothing by itself. */
const OUTLIER = 4;
/** From where on it counts less. */
const HUBER = 2;
/** Outliers in a row, to one side and alike, that are a step. */
const STEP_RUN = 3;
/** A run of single outliers is no step unless it is rarer than this. */
const CHANCE = 1e-3;
/** Largest ratio among those. */
const ALIKE = 1.5;
/** Outliers to one side that are a step however much they differ. */
const LONGEST_RUN = 8;
/** Standard deviations; chance alone gets there once in tens of thousands of calls. */
const LARGEST_LEAN = 12;
const NOISE_MEMORY = 0.97;
const NOISE_LIMITS = [0.005, 0.3] as const;
const SMALLEST_SLOPE = 0.02;

/** What an observation was taken for. */
export type Finding = "ordinary" | "outlier" | "step";

/** The affine model. */
export class DeviceModel {
  private a = 0;
  private b = 1;
  private aa = PRIOR[0] * PRIOR[0];
  private ab = 0;
  private bb = PRIOR[1] * PRIOR[1];
  private variance: number;
  private suspects: number[] = [];
  /** Standard deviations that the latest ordinary calls to one side add up to. */
  private lean = 0;

  /**
   * @param scale a typical response; all uncertainties are shares of it.
   * @param noise relative standard deviation of single calls to begin with.
   */
  constructor(
    private readonly scale: number,
    noise: number,
  ) {
    this.variance = noise * noise;
  }

  /** Relative standard deviation of single calls. */
  get noise(): number {
    return Math.sqrt(this.variance);
  }

  /** Expected response where the profile says `profiled`. */
  predict(profiled: number): number {
    return Math.max(this.a * this.scale + this.b * profiled, 1e-3 * profiled);
  }

  /** The profiled response where `response` is expected. */
  profiledFor(response: number): number {
    return (response - this.a * this.scale) / this.b;
  }

  /**
   * Take in one call, and say what it is taken for: an outlier may turn out to have been the beginning of a step.
   *
   * @param profiled what the profile says of the work that was done.
   * @param measured what it took; finite and above 0.
   * @param odd share of single calls that are outliers now: the more there are, the longer a run of them has to be
   *   until it cannot be chance.
   */
  observe(profiled: number, measured: number, odd = 0): Finding {
    const x = profiled / this.scale;
    const predicted = this.predict(profiled);
    const expected = predicted / this.scale;
    const { a, b } = this;
    const aa = this.aa + (DRIFT * a) ** 2 + SHAPE ** 2;
    const ab = this.ab + DRIFT ** 2 * a * b;
    const bb = this.bb + (DRIFT * b) ** 2 + SHAPE ** 2;
    const noise = this.variance * expected ** 2;
    let spread = aa + 2 * x * ab + x * x * bb + noise;
    const error = measured / this.scale - expected;
    const distance = Math.abs(error) / Math.sqrt(spread);
    if (distance > OUTLIER) {
      [this.aa, this.ab, this.bb] = [aa, ab, bb];
      return this.suspect(measured / predicted, odd);
    }
    this.suspects = [];
    const changed = this.leans(error < 0 ? -distance : distance);
    if (distance > HUBER) spread += noise * (distance / HUBER - 1);
    const gainA = (aa + x * ab) / spread;
    const gainB = (ab + x * bb) / spread;
    this.a = Math.min(Math.max(a + gainA * error, -0.5 * this.b), 10);
    this.b = Math.max(b + gainB * error, SMALLEST_SLOPE);
    this.aa = aa - gainA * (aa + x * ab);
    this.ab = ab - gainA * (ab + x * bb);
    this.bb = bb - gainB * (ab + x * bb);
    const relative = Math.min(Math.abs(error) / expected, 3 * this.noise);
    const variance = NOISE_MEMORY * this.variance + (1 - NOISE_MEMORY) * relative ** 2;
    this.variance = Math.min(Math.max(variance, NOISE_LIMITS[0] ** 2), NOISE_LIMITS[1] ** 2);
    return changed ? "step" : "ordinary";
  }

  /** Whether calls lie to one side for so long that the device has changed, by less than outliers show. */
  private leans(deviation: number): boolean {
    this.lean = this.lean * deviation > 0 ? this.lean + deviation : deviation;
    if (Math.abs(this.lean) < LARGEST_LEAN) return false;
    this.lean = 0;
    return true;
  }

  /** Count an outlier; enough of them in a row are a step of the whole device. */
  private suspect(ratio: number, odd: number): Finding {
    const last = this.suspects.at(-1);
    if (last !== undefined && ratio > 1 !== last > 1) this.suspects = [];
    this.suspects.push(ratio);
    let run = STEP_RUN;
    if (odd > 0) {
      const rare = Math.ceil(Math.log(CHANCE) / Math.log(Math.min(odd, 0.5)));
      run = Math.min(Math.max(run, rare), LONGEST_RUN);
    }
    const latest = this.suspects.slice(-run);
    const alike = latest.length === run && Math.max(...latest) < ALIKE * Math.min(...latest);
    if (!alike && this.suspects.length < LONGEST_RUN) return "outlier";
    const factor = median(latest);
    this.a *= factor;
    this.b = Math.max(this.b * factor, SMALLEST_SLOPE);
    const { a, b } = this;
    this.aa = this.aa * factor ** 2 + (AFTER_STEP * a) ** 2;
    this.ab = this.ab * factor ** 2 + AFTER_STEP ** 2 * a * b;
    this.bb = this.bb * factor ** 2 + (AFTER_STEP * b) ** 2;
    this.suspects = [];
    return "step";
  }
}
