/** How much more or less work the inputs take than those of calibration, at the same knobs. */

import { median } from "./sorted.js";

const MEMORY = 0.9;
const LIMITS = [0.2, 5] as const;
const RUN = 3;
const JUMP = 0.25;

/** A slowly moving ratio of work done to work expected; follows a jump after three calls to one side. */
export class WorkloadModel {
  /** Work done over work expected. */
  ratio = 1;
  private jumped: number[] = [];

  /** Take in one call's shares of work, both above 0. */
  observe(expected: number, done: number): void {
    const ratio = Math.min(Math.max(done / expected, LIMITS[0]), LIMITS[1]);
    const away = ratio / this.ratio - 1;
    if (Math.abs(away) <= JUMP) {
      this.jumped = [];
      this.ratio += (1 - MEMORY) * (ratio - this.ratio);
      return;
    }
    const last = this.jumped.at(-1);
    if (last !== undefined && last > this.ratio !== away > 0) this.jumped = [];
    this.jumped.push(ratio);
    if (this.jumped.length >= RUN) {
      this.ratio = median(this.jumped);
      this.jumped = [];
    } else {
      this.ratio += (1 - MEMORY) * (ratio - this.ratio);
    }
  }
}
