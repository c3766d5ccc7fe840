/**
 * What a bundle takes on this device, over the operating points that budgets lead to.
 *
 * Measured in a few seconds: the points in turn, in an order that changes from round to round, so that drift and
 * neighbours fall on all of them alike; then the first calls after a pause, whose clocks have dropped.
 */

import { ResponseCurve } from "../control/response_curve.js";
import { mean, median, quantile } from "../control/sorted.js";
import { BudgetError } from "../errors.js";
import { general, shown } from "../message_text.js";

const FORMAT = 1;
const POINTS = 9;
export const SECONDS = 3;
/** Calls before measuring: after WebAssembly's first one, some hundred are slow. */
const WARM_SECONDS = 1;
const WARM_CALLS = [3, 150] as const;
const ROUNDS = [5, 60] as const;
const PAUSE_MS = 250;
const PAUSES = 5;
const COLD_CALLS = 3;
const NOISE_LIMITS = [0.01, 0.3] as const;
const MOST_POINTS = 1_000;
/** Milliseconds of a call: a nanosecond to eleven days. */
const TIMES = [1e-6, 1e9] as const;
const LARGEST_SHARE = 100;
/** Shares of work that cannot be told apart. */
const SAME = 1e-3;

/** One operating point. */
export interface ProfilePoint {
  /** Share of the dense work that was asked for. */
  readonly fraction: number;
  /** Mean share that was done. */
  readonly done: number;
  /** Expected there by calibration; null if unknown. */
  readonly quality: number | null;
  /** Milliseconds of half of the calls at most. */
  readonly medianMs: number;
  /** Of 95% of them. */
  readonly p95Ms: number;
  /** Calls measured. */
  readonly runs: number;
}

/** What a profile holds for, and for nothing else. */
export interface ProfileKey {
  /** Hash of `bundle.json`. */
  readonly bundle: string;
  /** The engine and its version. */
  readonly engine: string;
  /** Processors that the platform tells of. */
  readonly processors: number;
  /** That one operator may use; null leaves it to the engine. */
  readonly threads: number | null;
  /** Samples of a call. */
  readonly batch: number;
}

/** Latency over the operating points of one bundle on one device: plain values, to be kept as JSON. */
export interface Profile {
  readonly format: number;
  readonly key: ProfileKey;
  /** From the cheapest on. */
  readonly points: readonly ProfilePoint[];
  /** Relative scatter of single calls. */
  readonly noise: number;
  /** How much longer the first calls after a pause take, as a factor for each. */
  readonly cold: readonly number[];
}

/** Milliseconds over the share of work done. */
export function profileCurve({ points }: Profile): ResponseCurve {
  const [shares, responses]: [number[], number[]] = [[], []];
  for (const { done, medianMs } of [...points].sort(
    (one, other) => one.done - other.done || one.medianMs - other.medianMs,
  )) {
    if (shares.length > 0 && done <= shares.at(-1)! + SAME) continue;
    shares.push(done);
    responses.push(medianMs);
  }
  return new ResponseCurve(shares, responses);
}

/**
 * Check every number of a profile that was kept somewhere, so that none of them surprises a later call.
 *
 * @param key what it has to hold for.
 * @throws BudgetError it is of something else, or names the first number that cannot have been measured.
 */
export function checkProfile(profile: Profile, key: ProfileKey): void {
  const got: unknown = profile;
  const fine = typeof got === "object" && got !== null && Array.isArray(profile.points) && Array.isArray(profile.cold);
  expect(fine && profile.format === FORMAT, shown(got), `a profile of format ${FORMAT}`);
  for (const name of Object.keys(key) as (keyof ProfileKey)[]) {
    expect(profile.key?.[name] === key[name], `${name} ${shown(profile.key?.[name])}`, shown(key[name]));
  }
  const between = (what: string, value: unknown, least: number, most: number): void => {
    const held = typeof value === "number" && least <= value && value <= most;
    expect(held, `${what} ${shown(value)}`, `${general(least)} to ${general(most)}`);
  };
  between("points", profile.points.length, 1, MOST_POINTS);
  between("noise", profile.noise, NOISE_LIMITS[0], NOISE_LIMITS[1]);
  between("factors of first calls", profile.cold.length, COLD_CALLS, COLD_CALLS);
  for (const factor of profile.cold) between("a first call's factor", factor, 1, TIMES[1]);
  for (const point of profile.points) {
    between("fraction", point.fraction, Number.MIN_VALUE, LARGEST_SHARE);
    between("done", point.done, Number.MIN_VALUE, LARGEST_SHARE);
    between("medianMs", point.medianMs, TIMES[0], TIMES[1]);
    between("p95Ms", point.p95Ms, TIMES[0], TIMES[1]);
    between("runs", point.runs, 1, Number.MAX_SAFE_INTEGER);
  }
  profileCurve(profile);
}

function expect(fine: boolean, got: string, expected: string): void {
  if (!fine) throw new BudgetError(`got a profile with ${got}, expected ${expected}; profile again`);
}

/** Shares of the dense work to measure at, evenly from the cheapest calibrated point to everything. */
export function profiledShares([cheapest, full]: readonly [number, number]): number[] {
  if (full - cheapest < SAME) return [full];
  return Array.from({ length: POINTS }, (_, step) => cheapest + ((full - cheapest) * step) / (POINTS - 1));
}

/** What is measured, and with what. */
export interface Measured {
  /** Runs a call at a share of the dense work; gives the share done, and the milliseconds it took. */
  call(share: number): Promise<{ done: number; milliseconds: number }>;
  /** Milliseconds, monotonic. */
  clock(): number;
  /** Waits so many milliseconds. */
  sleep(milliseconds: number): Promise<void>;
  /** Told the share that is done. */
  progress(share: number): void;
  /** To spend on the steady part, about; every point is run five times at least. */
  readonly seconds: number;
}

/**
 * Measure a profile.
 *
 * @param points shares of work to ask for, ascending, with what calibration expects there.
 * @param key what the profile will hold for.
 * @throws BudgetError the clock does not advance.
 */
export async function measureProfile(
  { call, clock, sleep, progress, seconds }: Measured,
  points: readonly { readonly share: number; readonly quality: number | null }[],
  key: ProfileKey,
): Promise<Profile> {
  progress(0);
  const shares = points.map((point) => point.share);
  const warm = clock();
  for (let count = 0; count < WARM_CALLS[1]; count++) {
    if (count >= WARM_CALLS[0] + shares.length && clock() - warm > WARM_SECONDS * 1e3 * Math.min(seconds / SECONDS, 1))
      break;
    await call(shares.at(-1 - (count % shares.length))!);
  }
  const [times, done]: [number[][], number[][]] = [shares.map(() => []), shares.map(() => [])];
  const steady = clock();
  for (let round = 1; round <= ROUNDS[1]; round++) {
    for (const index of shuffled(shares.length, round)) {
      const got = await call(shares[index]!);
      done[index]!.push(got.done);
      times[index]!.push(got.milliseconds);
    }
    progress(Math.min((clock() - steady) / Math.max(seconds * 1e3, 1e-6), 1) * 0.8);
    if (round >= ROUNDS[0] && clock() - steady > seconds * 1e3) break;
  }
  const known = times.flat().filter((one) => one > 0 && Number.isFinite(one));
  if (known.length === 0) {
    throw new BudgetError(
      `got calls that took ${shown(times.map(median))} ms, expected times above 0; check the clock, profile again`,
    );
  }
  // Browsers' clocks go in steps of up to a millisecond: what takes less than one is taken for half of it.
  const medians = times.map((one) => Math.max(median(one), Math.min(...known) / 2));
  const factors: number[][] = [];
  for (let pause = 1; pause <= PAUSES; pause++) {
    await sleep(PAUSE_MS);
    const first: number[] = [];
    for (let count = 0; count < COLD_CALLS; count++)
      first.push((await call(shares.at(-1)!)).milliseconds / medians.at(-1)!);
    factors.push(first);
    progress(0.8 + (0.2 * pause) / PAUSES);
  }
  const scatter = times.map((one, index) => quantile(one, 0.84) / medians[index]! - 1);
  return {
    format: FORMAT,
    key,
    points: points.map(({ share, quality }, index) => ({
      fraction: share,
      done: mean(done[index]!),
      quality,
      medianMs: medians[index]!,
      p95Ms: quantile(times[index]!, 0.95),
      runs: times[index]!.length,
    })),
    noise: Math.min(Math.max(median(scatter), NOISE_LIMITS[0]), NOISE_LIMITS[1]),
    cold: Array.from({ length: COLD_CALLS }, (_, index) => Math.max(median(factors.map((one) => one[index]!)), 1)),
  };
}

/** The numbers below `count` in an order of their own for each round, the same at every measurement. */
function shuffled(count: number, round: number): number[] {
  const order = Array.from({ length: count }, (_, index) => index);
  let state = round;
  for (let last = count - 1; last > 0; last--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0; // the constants of Numerical Recipes' generator
    const place = Math.floor((state / 2 ** 32) * (last + 1));
    [order[last], order[place]] = [order[place]!, order[last]!];
  }
  return order;
}
