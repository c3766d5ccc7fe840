/**
 * Budgets in milliseconds, from profile to controller, for one model.
 *
 * The model's own budget has one controller, which all calls without a budget of their own share and teach. A call
 * with its own budget is answered from the profile and teaches that controller nothing; but whether the profile still
 * is what the device does is followed beside it by a device model of their own.
 */

import type { Budget } from "../control/budget.js";
import { type Choice, LatencyController } from "../control/controller.js";
import { DeviceModel } from "../control/device_model.js";
import { normalQuantile } from "../control/normal_distribution.js";
import type { ResponseCurve } from "../control/response_curve.js";
import { median } from "../control/sorted.js";
import { general } from "../message_text.js";
import type { Plan, Planner } from "../plan.js";
import { type Profile, profileCurve } from "./profile.js";

/** Calls of a batch size without a profile that its factor is learned from; later ones are the device's. */
const FACTOR_CALLS = 16;
const FACTOR_LIMITS = [0.2, 5] as const;
const IDLE_AFTER_S = 0.25;

/** One call under a budget of time. */
export interface Ticket {
  /** What to run. */
  readonly plan: Plan;
  /** Milliseconds that half of such calls stay under. */
  readonly expected: number;
  /** The controller's, to be observed; null for a call with its own budget. */
  readonly choice: Choice | null;
  /** Samples. */
  readonly batch: number;
  /** What the batch takes over the profiled one, as assumed. */
  readonly scale: number;
  /** Whose choice it is. */
  readonly controller: LatencyController | null;
  /** How much longer such a call takes than steady ones, as it comes after a pause; of own budgets. */
  readonly cold: number;
}

/** Budgets of time of one model. */
export class LatencyBudgets {
  private curve: ResponseCurve | null = null;
  private controller: LatencyController | null = null;
  /** What the device makes of the profile, by calls with their own budgets. */
  private profiled: DeviceModel | null = null;
  /** What calls of a batch size took, each. */
  private readonly factors = new Map<number, number[]>();
  private ended: number | null = null;
  private sinceIdle = 0;
  private current: Profile | null = null;

  constructor(private readonly planner: Planner) {}

  /** The profile that calls go by; null before there is one. */
  get profile(): Profile | null {
    return this.current;
  }

  /** Work with this profile from now on; the controller starts anew with it. */
  use(profile: Profile): void {
    const curve = profileCurve(profile);
    this.current = profile;
    this.curve = curve;
    this.factors.clear();
    this.profiled = new DeviceModel(curve.at(curve.full), profile.noise);
    this.controller = null;
  }

  /** The model's own budget was changed: its controller starts anew. */
  reset(): void {
    this.controller = null;
  }

  /**
   * Choose what a call runs; there is a profile.
   *
   * @param batch samples, at least one.
   * @param now seconds, monotonic.
   * @param forCall whether the budget is the call's own, not the model's.
   */
  begin(budget: Budget, batch: number, now: number, forCall: boolean): Ticket {
    const profile = this.current!;
    const curve = this.curve!;
    const scale = (batch / profile.key.batch) * this.factor(batch);
    if (forCall) return this.fromProfile(budget, profile, curve, batch, scale, now);
    this.controller ??= new LatencyController(budget.value, curve, {
      percentile: budget.percentile,
      noise: profile.noise,
      cold: profile.cold,
      limits: this.planner.shares,
    });
    const { controller } = this;
    const choice = controller.choose(now, scale);
    const plan = this.plan(budget, choice.fraction, choice.upper, choice.reachable);
    // Where nothing is interpolated, or more work is no better, less runs than was asked for: no easier input.
    const fraction = plan.point.macsFraction;
    const expected = (choice.expected * curve.at(fraction)) / curve.at(choice.fraction);
    return {
      plan,
      expected: choice.expected,
      choice: { ...choice, fraction, expected },
      batch,
      scale,
      controller,
      cold: 1,
    };
  }

  /** Take in what a call took, and the share of work it did. */
  end(ticket: Ticket, done: number, milliseconds: number, now: number): void {
    this.ended = now;
    this.sinceIdle++;
    const { choice, controller, scale } = ticket;
    if (choice !== null && controller !== null) {
      if (this.learnsFactor(ticket, milliseconds)) controller.passed(now, choice);
      else controller.observe(now, choice, done, milliseconds, scale);
      return;
    }
    const curve = this.curve!;
    if (!curve.canBe(done, milliseconds / scale) || this.learnsFactor(ticket, milliseconds)) return;
    this.profiled!.observe(curve.at(done), milliseconds / scale / ticket.cold);
  }

  /** Learn what a batch size without a profile takes; whether the call was used up by that. */
  private learnsFactor(ticket: Ticket, measured: number): boolean {
    const profiled = this.current!.key.batch;
    if (ticket.batch === profiled || !(0 < measured && measured < Infinity)) return false;
    const seen = this.factors.get(ticket.batch) ?? [];
    this.factors.set(ticket.batch, seen);
    if (seen.length >= FACTOR_CALLS) return false;
    const assumed = (ticket.scale * profiled) / ticket.batch;
    seen.push(assumed * Math.min(Math.max(measured / ticket.expected, FACTOR_LIMITS[0]), FACTOR_LIMITS[1]));
    return true;
  }

  /** The median, which a single slow call does not move. */
  private factor(batch: number): number {
    const seen = this.factors.get(batch) ?? [];
    return seen.length > 0 ? median(seen) : 1;
  }

  private fromProfile(
    budget: Budget,
    profile: Profile,
    curve: ResponseCurve,
    batch: number,
    scale: number,
    now: number,
  ): Ticket {
    const device = this.profiled!;
    const margin = normalQuantile(budget.percentile, 1, Math.max(profile.noise, device.noise));
    const cold = this.coldFactor(profile, now);
    const allowed = budget.value / (margin * scale * cold);
    const [cheapest, full] = this.planner.shares;
    const fraction = Math.min(Math.max(curve.fractionFor(device.profiledFor(allowed)), cheapest), full);
    const upper = device.predict(curve.at(fraction)) * scale * cold * margin;
    const plan = this.plan(budget, fraction, upper, allowed >= device.predict(curve.at(cheapest)));
    const expected = device.predict(curve.at(plan.point.macsFraction)) * scale * cold;
    return { plan, expected, choice: null, batch, scale, controller: null, cold };
  }

  /** What the profile says of the first calls after a pause. */
  private coldFactor(profile: Profile, now: number): number {
    if (this.ended === null || now - this.ended > IDLE_AFTER_S) this.sinceIdle = 0;
    return profile.cold[this.sinceIdle] ?? 1;
  }

  private plan(budget: Budget, fraction: number, upper: number, reachable: boolean): Plan {
    let message: string | null = null;
    if (!reachable) {
      message =
        `got a budget of ${budget}, but the cheapest calibrated point is expected to take up to ` +
        `${general(upper, 4)} ms now; ran that one`;
    }
    return this.planner.forFraction(fraction, budget, reachable, message);
  }
}
