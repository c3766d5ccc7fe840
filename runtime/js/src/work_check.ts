/**
 * Whether calls under a soft budget take the work that calibration lets expect of them.
 *
 * A soft budget holds for the mean over inputs like the calibration data. Inputs that are not like it, or a knob that
 * does not do what it did there, take more, and nothing in a single call says so: the mean over many does.
 */

import { general } from "./message_text.js";

const LEAST_SAMPLES = 8;
/** The next look is at so many times the samples: looks become rarer as there is more to look at. */
const FARTHER = 1.1;
/** Samples from which on older ones count half: what is said is about the latest. */
const KEPT = 2_000;
/** Per dense work: calls whose expected work differs by a twentieth of it are of different kinds. */
const KINDS = 20;
const ERRORS = 3;
/** Standard deviation of a sample's share that is assumed at least: a few alike do not show how others scatter. */
const LEAST_SCATTER = 0.1;
/** Of the dense work, and as a share of what was expected: calibration measured it on another split. */
const TOLERATED = 0.02;

/** The excess over the expected work, over the latest samples of one model. */
export class SoftBudgetCheck {
  private readonly excesses = new Map<number, Excess>();

  /** The budget was changed. */
  reset(): void {
    this.excesses.clear();
  }

  /**
   * Take in a call under a soft budget of work.
   *
   * @param expected mean share of the dense work by calibration.
   * @param done share of it that each sample took.
   * @returns what to say, if by the latest look such calls take clearly more than was expected.
   */
  observe(expected: number, done: Float32Array): string | null {
    const kind = Math.trunc(expected * KINDS);
    let excess = this.excesses.get(kind);
    if (excess === undefined) this.excesses.set(kind, (excess = new Excess()));
    excess.add(expected, done);
    return excess.text;
  }
}

/** Sums over the samples of one kind of calls, and what the latest look at them says. */
class Excess {
  text: string | null = null;
  private samples = 0;
  private excess = 0;
  private squares = 0;
  private expected = 0;
  private nextLook = LEAST_SAMPLES;

  add(expected: number, done: Float32Array): void {
    for (let index = 0; index < done.length; index++) {
      const excess = done[index]! - expected;
      this.excess += excess;
      this.squares += excess * excess;
    }
    this.samples += done.length;
    this.expected += done.length * expected;
    if (this.samples >= this.nextLook) this.look();
  }

  private look(): void {
    const { samples } = this;
    const mean = this.excess / samples;
    const expected = this.expected / samples;
    const scatter = Math.sqrt(Math.max(this.squares / samples - mean * mean, 0));
    const error = Math.max(scatter, LEAST_SCATTER) / Math.sqrt(samples);
    this.text = null;
    if (mean > TOLERATED * (1 + expected) + ERRORS * error) {
      this.text =
        `calls under this soft budget take ${general(expected + mean, 4)} of the dense work on average over the last ` +
        `${samples.toFixed(0)} samples, expected ${general(expected, 4)} as calibrated: these inputs are not like ` +
        "the calibration data; run `adaptrt calibrate` with data like these, or ask for less";
    }
    if (samples > KEPT) {
      this.samples /= 2;
      this.excess /= 2;
      this.squares /= 2;
      this.expected /= 2;
    }
    this.nextLook = Math.max(this.samples * FARTHER, this.samples + 1);
  }
}
