/** What a loaded model does beyond the kit. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { Budget, BudgetError, InputError, load } from "adaptrt";

import { measureProfile } from "../dist/device/profile.js";
import { StageTimes } from "../dist/device/stage_times.js";
import { readCase } from "./kit_check.js";
import { folder, kit } from "./node_kit.js";

let model;
let inputs;

before(async () => {
  const { content, arrays } = await readCase(kit, "exits_max_softmax");
  model = await load(folder(content.bundle), { threads: 1 });
  inputs = arrays.getAll(content.inputs);
});

after(() => model.close());

describe("budgets", () => {
  test("are written as people write them", () => {
    const told = (text, options) => {
      const { kind, value, hard, percentile } = Budget.parse(text, options);
      return [kind, value, hard, percentile];
    };
    assert.deepEqual(told("45%"), ["fraction", 0.45, false, 0]);
    assert.deepEqual(told(" 57 %"), ["fraction", 0.57, false, 0]);
    assert.deepEqual(told(".5", { hard: true }), ["fraction", 0.5, true, 0]);
    assert.deepEqual(told("90M"), ["macs", 90e6, false, 0]);
    assert.deepEqual(told("2e9MACs"), ["macs", 2e9, false, 0]);
    assert.deepEqual(told("8ms"), ["latency", 8, false, 0.95]);
    assert.deepEqual(told("full"), ["full", 0, false, 0]);
    for (const text of ["", "12", "8 s", "-1%", "1e", "full 1", "NaN", "0ms"]) {
      assert.throws(() => Budget.parse(text), BudgetError, text);
    }
    assert.throws(() => Budget.parse("8ms", { hard: true }), /expected hard=false: a device promises nothing/u);
  });

  test("say what they are", () => {
    assert.equal(String(Budget.fraction(1 / 3)), "0.3333 of the dense work");
    assert.equal(String(Budget.macs(2e9, { hard: true })), "2e+09 MACs for each sample");
    assert.equal(String(Budget.latency(8)), "8 ms for 0.95 of the calls");
    assert.equal(String(Budget.full()), "full");
  });

  test("without sense are refused", () => {
    for (const share of [-0.1, NaN, Infinity, "0.5", null, undefined, {}]) {
      assert.throws(() => Budget.fraction(share), BudgetError);
    }
    assert.throws(() => Budget.latency(0), /a finite number above 0/u);
    assert.throws(() => Budget.latency(8, { percentile: 1 }), /0\.5 to 0\.999/u);
    assert.throws(() => Budget.of({ kind: "energy", value: 1 }), /expected fraction, macs, latency, full$/u);
    assert.throws(() => Budget.of({ kind: "__proto__" }), BudgetError);
    assert.throws(() => (model.budget = { kind: "full" }), /expected a Budget; pass Budget\.fraction\(0\.5\), .* or /u);
  });

  test("of the model hold until another is set, and one of a call for that call", async () => {
    model.budget = Budget.fraction(0.5);
    const waiting = model.run(inputs);
    model.budget = Budget.full();
    assert.equal((await waiting).budget.value, 0.5);
    const { knobs } = model.operatingPoint(Budget.fraction(0.5));
    assert.deepEqual((await waiting).knobs, knobs);
    assert.deepEqual((await model.run(inputs, { budget: Budget.fraction(0.5) })).knobs, knobs);
    assert.equal((await model.run(inputs)).budget.kind, "full");
  });

  test("below the cheapest point say so", async () => {
    const { reachable, message } = await model.run(inputs, { budget: Budget.fraction(0.01) });
    assert.equal(reachable, false);
    assert.match(message, /^got a budget of 0\.01 of the dense work, but the cheapest calibrated point takes 0\./u);
  });

  test("that calls exceed are told of after some samples", async () => {
    const { content, arrays } = await readCase(kit, "exits_max_softmax");
    const one = await load(folder(content.bundle));
    const budget = Budget.fraction(0.5);
    const excess = one.operatingPoint(budget).macsFraction;
    let said = null;
    let done = 0;
    for (let call = 0; call < 40; call++) {
      const result = await one.run(arrays.getAll(content.inputs), { budget });
      said = result.message;
      done = result.macsFraction.reduce((sum, share) => sum + share, 0) / result.macsFraction.length;
    }
    const clearly = done > excess + 0.02 * (1 + excess) + 0.1;
    assert.equal(said !== null && /take .* of the dense work on average/u.test(said), clearly);
    await one.close();
  });
});

describe("wrong calls", () => {
  const wrong = (fed, pattern, options) =>
    assert.rejects(model.run(fed, options), (error) => {
      assert.ok(error instanceof InputError || error instanceof BudgetError, error.stack);
      assert.match(error.message, pattern);
      return true;
    });

  test("are refused with what mends them", async () => {
    const { x, hint, scale } = inputs;
    await wrong(null, /^inputs: got null, expected an object; pass \{'x': \{shape, data\}/u);
    await wrong([x], /^inputs: got Array/u);
    await wrong({ hint, scale }, /^inputs: got 'hint', 'scale', expected exactly 'x', 'hint', 'scale'/u);
    await wrong({ ...inputs, more: x }, /'more'/u);
    await wrong(
      { ...inputs, x: x.data },
      /^input 'x': got Float32Array, expected a tensor float32 \[batch, 6\]; pass/u,
    );
    await wrong({ ...inputs, x: { ...x, data: Array.from(x.data) } }, /expected a tensor float32/u);
    await wrong(
      { ...inputs, x: { ...x, data: x.data.slice(1) } },
      /got 59 elements, expected 60 of the shape \[10, 6\]/u,
    );
    await wrong({ ...inputs, x: { ...x, dtype: "float64" } }, /got float64 \[10, 6\], expected float32/u);
    await wrong({ ...inputs, x: { ...x, shape: [10.5, 6] } }, /got float32 \[10\.5, 6\]/u);
    await wrong(inputs, /got both a budget \(full\) and knobs/u, { budget: Budget.full(), knobs: {} });
    await wrong(inputs, /knobs: got 'constructor', expected some of/u, { knobs: { constructor: 1 } });
    await wrong(inputs, /got decisions: true, but bundle/u, { decisions: true });
    await wrong(inputs, /knob 'price': got true, expected a number from 0 to 9/u, { knobs: { price: true } });
  });
});

test("calls that overlap are answered in order", async () => {
  const order = [];
  const calls = Array.from({ length: 8 }, (_, number) => model.run(inputs).then(() => order.push(number)));
  await Promise.all(calls);
  assert.deepEqual(order, [0, 1, 2, 3, 4, 5, 6, 7]);
});

test("after a call that failed the next one is answered", async () => {
  const bad = { ...inputs, scale: { shape: [1], data: new Float32Array([NaN]) } };
  const [first, second] = await Promise.allSettled([model.run(bad), model.run(inputs)]);
  assert.equal(first.status, "rejected");
  assert.equal(second.status, "fulfilled");
});

describe("a budget of time", () => {
  test("is answered from a profile, which can be kept", async () => {
    const shares = [];
    const profile = await model.profile(inputs, { seconds: 0.2, onProgress: (share) => shares.push(share) });
    assert.equal(shares.at(-1), 1);
    assert.equal(profile.points.length, 9);
    const kept = JSON.parse(JSON.stringify(profile));
    await model.useProfile(kept);
    model.budget = Budget.latency(1e4);
    for (let call = 0; call < 20; call++) {
      const result = await model.run(inputs);
      assert.equal(result.targetMet, true);
      assert.ok(result.expected > 0);
    }
    const full = model.operatingPoint(Budget.full()).knobs;
    assert.deepEqual((await model.run(inputs)).knobs, full, "all the time there is: everything runs");
    const tight = await model.run(inputs, { budget: Budget.latency(1e-4) });
    assert.deepEqual([tight.reachable, tight.targetMet], [false, false]);
    assert.match(
      tight.message,
      /^got a budget of 0\.0001 ms for 0\.95 of the calls, but the cheapest calibrated point/u,
    );
    const fewer = Object.fromEntries(
      Object.entries(inputs).map(([name, { shape, data }]) => [
        name,
        name === "scale" ? { shape, data } : { shape: [1, shape[1]], data: data.slice(0, shape[1]) },
      ]),
    );
    for (let call = 0; call < 20; call++) assert.equal((await model.run(fewer)).targetMet, true);
    model.budget = Budget.full();
  });

  test("is not answered from a profile of something else", async () => {
    const profile = await model.profile(inputs, { seconds: 0.05 });
    const altered = [
      { ...profile, key: { ...profile.key, bundle: "0" } },
      { ...profile, key: { ...profile.key, engine: "other" } },
      { ...profile, noise: NaN },
      { ...profile, points: [] },
      { ...profile, points: [{ ...profile.points[0], medianMs: -1 }] },
      { ...profile, cold: [1] },
      null,
      {},
    ];
    for (const other of altered) await assert.rejects(model.useProfile(other), BudgetError);
  });
});

test("a clock of coarse steps gives a profile", async () => {
  const points = [0.2, 0.6, 1].map((share) => ({ share, quality: null }));
  let now = 0;
  const measured = {
    call: async (share) => {
      const begun = now;
      now += 0.04 * share;
      return { done: share, milliseconds: Math.floor(now * 10) / 10 - Math.floor(begun * 10) / 10 };
    },
    clock: () => now,
    sleep: async () => undefined,
    progress: () => undefined,
    seconds: 0.001,
  };
  const profile = await measureProfile(measured, points, {});
  assert.ok(profile.points.every(({ medianMs }) => medianMs > 0));
  const stopped = { ...measured, call: async (share) => ({ done: share, milliseconds: 0 }) };
  await assert.rejects(measureProfile(stopped, points, {}), /expected times above 0; check the clock/u);
});

describe("a deadline", () => {
  test("far away changes nothing, one that is over leaves the first stage's answer", async () => {
    const whole = await model.run(inputs);
    const patient = await model.run(inputs, { deadlineMs: 1e5 });
    assert.deepEqual([patient.outputs, patient.exit], [whole.outputs, whole.exit]);
    assert.deepEqual([patient.deadlineMet, patient.targetMet, whole.deadlineMet], [true, true, null]);
    const hasty = await model.run(inputs, { deadlineMs: 1e-6 });
    assert.deepEqual(Array.from(hasty.exit), new Array(10).fill(0));
    assert.deepEqual([hasty.deadlineMet, hasty.targetMet], [false, false]);
    const first = await model.run(inputs, { knobs: { exit_thresholds: [-1, -1] } });
    assert.deepEqual(hasty.outputs, first.outputs);
  });

  test("lets those leave that are confident enough", async () => {
    const budget = Budget.fraction(0.7);
    const { exit, outputs } = await model.run(inputs, { budget });
    const patient = await model.run(inputs, { budget, deadlineMs: 1e5 });
    assert.deepEqual([patient.exit, patient.outputs], [exit, outputs]);
    assert.ok(new Set(exit).size > 1);
  });

  test("without sense is refused, and holds for no samples", async () => {
    for (const deadlineMs of [0, -1, NaN, Infinity, "5", null]) {
      await assert.rejects(model.run(inputs, { deadlineMs }), /got deadlineMs=.*, expected milliseconds, a finite/u);
    }
    const one = await load(folder("../../runtime/fixtures/tiny"));
    const x = { shape: [1, 4], data: new Float32Array(4) };
    await assert.rejects(one.run({ x }, { deadlineMs: 5 }), /has no exits to answer early at; use Budget\.latency/u);
    await one.close();
    const none = Object.fromEntries(
      Object.entries(inputs).map(([name, { shape, data }]) => [
        name,
        name === "scale" ? { shape, data } : { shape: [0, shape[1]], data: new Float32Array(0) },
      ]),
    );
    assert.equal((await model.run(none, { deadlineMs: 100 })).exit.length, 0);
  });
});

test("the times of stages are Python's estimate", () => {
  const times = new StageTimes();
  assert.equal(times.high(0, 1), Infinity);
  for (let run = 1; run <= 300; run++) times.add(0, 5, run);
  // Of the latest 256, from 45 to 300: the 99th percentile, and a tenth more.
  assert.equal(times.high(0, 8), (45 + Math.trunc(0.99 * 256)) * 1.1);
  assert.equal(times.high(0, 1), times.high(0, 8), "fewer rows count as the next larger number");
  assert.equal(times.high(0, 17), times.high(0, 8) * 4);
  assert.deepEqual([times.knows(1, 6), times.knows(1, 4), times.knows(2, 6)], [true, false, false]);
});
