/** The slider: a budget in shares of the dense model's work, or in milliseconds of this device. */

import { Budget } from "../../src/control/budget.js";
import type { Profile } from "../../src/device/profile.js";
import type { WorkerModel } from "../../src/worker/worker_model.js";

export type Unit = "share" | "time";

/** The elements of the control. */
export interface BudgetElements {
  readonly slider: HTMLInputElement;
  readonly value: HTMLOutputElement;
  readonly hint: HTMLElement;
  readonly low: HTMLElement;
  readonly high: HTMLElement;
  readonly units: readonly HTMLInputElement[];
}

interface Range {
  readonly min: number;
  readonly max: number;
  readonly step: number;
  readonly value: number;
}

const PROFILE_SECONDS = 1.5;
/** Metrics whose values are shares. */
const SHARES = ["accuracy", "agreement"];

/** Sets the model's budget as the slider moves. */
export class BudgetControl {
  private unit: Unit = "share";
  private readonly ranges = new Map<Unit, Range>();
  private readonly hard: boolean;

  /**
   * @param measure what calls take on this device; told the share that is done.
   * @param onChange another budget holds.
   */
  constructor(
    private readonly model: WorkerModel,
    private readonly elements: BudgetElements,
    private readonly measure: (seconds: number, onProgress: (share: number) => void) => Promise<Profile>,
    private readonly onChange: () => void,
    private readonly onError: (error: unknown) => void,
  ) {
    const table = model.bundle.budget_table;
    this.hard = table !== null && table.soft.length === 0 && table.hard.length > 0;
    const { slider, units, hint } = elements;
    const calibrated = table !== null && table.soft.length + table.hard.length > 0;
    for (const radio of units) {
      radio.disabled = !calibrated || (radio.value === "time" && this.hard);
      radio.addEventListener("change", () => void this.choose(radio.value as Unit));
    }
    slider.addEventListener("input", () => this.set(Number(slider.value)));
    if (!calibrated) {
      slider.disabled = true;
      hint.textContent = "This bundle is not calibrated and knows no budgets: everything runs.";
      elements.value.textContent = "full";
      return;
    }
    const least = model.operatingPoint(Budget.fraction(0, { hard: this.hard })).macsFraction;
    const most = Math.max(model.operatingPoint(Budget.full()).macsFraction, least);
    const [min, max] = [Math.ceil(100 * least), Math.ceil(100 * most)];
    this.ranges.set("share", { min, max, step: 1, value: Math.round(min + (max - min) / 3) });
    this.show();
  }

  /** The budget in words. */
  get shown(): string {
    return this.elements.value.textContent ?? "";
  }

  /** Milliseconds that are asked for; null under a budget of work. */
  get milliseconds(): number | null {
    return this.unit === "time" ? (this.ranges.get("time")?.value ?? null) : null;
  }

  /** The share that is asked for; null under a budget of time. */
  get share(): number | null {
    return this.unit === "share" && this.ranges.has("share") ? this.ranges.get("share")!.value / 100 : null;
  }

  /** Another unit; milliseconds are measured first. */
  private async choose(unit: Unit): Promise<void> {
    const { slider, hint } = this.elements;
    if (unit === "time" && !this.ranges.has("time")) {
      slider.disabled = true;
      try {
        const profile = await this.measure(PROFILE_SECONDS, (share) => {
          hint.textContent = `Measuring this device: ${Math.round(100 * share)}%`;
        });
        this.ranges.set("time", rangeOf(profile));
      } catch (error) {
        this.onError(error);
        for (const radio of this.elements.units) radio.checked = radio.value === this.unit;
        return;
      } finally {
        slider.disabled = false;
      }
    }
    this.unit = unit;
    this.show();
  }

  private set(value: number): void {
    this.ranges.set(this.unit, { ...this.ranges.get(this.unit)!, value });
    this.show();
  }

  private show(): void {
    const { slider, value, low, high } = this.elements;
    const range = this.ranges.get(this.unit)!;
    slider.min = String(range.min);
    slider.max = String(range.max);
    slider.step = String(range.step);
    slider.value = String(range.value);
    slider.style.setProperty("--fill", String((range.value - range.min) / Math.max(range.max - range.min, 1e-9)));
    const text = (amount: number): string =>
      this.unit === "share" ? `${amount}%` : `${amount.toFixed(decimals(range.step))} ms`;
    value.textContent = text(range.value);
    slider.setAttribute("aria-valuetext", this.unit === "share" ? `${range.value}% of the work` : text(range.value));
    [low.textContent, high.textContent] = [text(range.min), text(range.max)];
    try {
      this.model.budget =
        this.unit === "share" ? Budget.fraction(range.value / 100, { hard: this.hard }) : Budget.latency(range.value);
    } catch (error) {
      this.onError(error);
      return;
    }
    this.elements.hint.textContent = this.expectation();
    this.onChange();
  }

  /** What calibration lets expect. */
  private expectation(): string {
    if (this.unit === "time")
      return "95% of the calls are to stay under it. A controller chooses the work of each call.";
    const { macsFraction, quality } = this.model.operatingPoint();
    const { quality_metric: metric, dense } = this.model.bundle;
    const work = `${(100 * macsFraction).toFixed(0)}% of the work on average`;
    if (quality === null || metric === null) return `Expected: ${work}.`;
    const shown = (one: number): string => (SHARES.includes(metric) ? `${(100 * one).toFixed(1)}%` : one.toFixed(3));
    const beside = dense.quality === null ? "" : ` (dense model: ${shown(dense.quality)})`;
    return `Expected: ${shown(quality)} ${metric}${beside} with ${work}.`;
  }
}

/** From a little under the cheapest point to a little over everything. */
function rangeOf({ points }: Profile): Range {
  const least = Math.min(...points.map(({ medianMs }) => medianMs));
  const most = Math.max(...points.map(({ p95Ms }) => p95Ms));
  const step = 10 ** Math.floor(Math.log10(Math.max(most - least, 0.01) / 20));
  const min = Math.max(Math.floor((0.9 * least) / step) * step, step);
  const max = Math.ceil((1.1 * most) / step) * step;
  const value = Math.round((min + (max - min) / 2) / step) * step;
  return { min, max, step, value };
}

function decimals(step: number): number {
  return Math.max(0, -Math.floor(Math.log10(step)));
}
