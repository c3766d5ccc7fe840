/** int8: what `adaptrt build --as-bundle` writes, in Node.js and in a real headless Chromium, beside Python's int8. */

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Budget, load } from "../dist/node.js";
import { launch } from "./chromium.js";
import { ROOT } from "./node_kit.js";
import { printedLines } from "./python_lines.js";
import { serveFolders } from "./static_server.js";

/**
 * WebAssembly rounds otherwise than a CPU's own instructions, and a number near the middle between two bytes then becomes
 * the other byte: far less than between int8 and float32, far more than between two engines in float32.
 */
const LOGITS = 0.05;
const WORK = 0.01;

let scratch;
let expected;

const largest = (got, wanted) => Math.max(...wanted.map((value, place) => Math.abs(got[place] - value)));

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "adaptrt-int8-"));
  expected = printedLines("tests.conformance.int8_answers", `${ROOT}build/digits`, join(scratch, "int8"));
});

after(() => rm(scratch, { recursive: true, force: true }));

test("Node.js gives Python's answers to the bit", async () => {
  const model = await load(join(scratch, "int8"), { threads: 1 });
  assert.equal(expected.length, 3);
  for (const { budget, shape, data, logits, macs_fraction } of expected) {
    const pixels = { shape, data: Float32Array.from(data) };
    const result = await model.run({ pixels }, { budget: Budget.fraction(budget) });
    assert.deepEqual(Array.from(result.outputs.logits.data), logits);
    assert.deepEqual(Array.from(result.macsFraction), macs_fraction);
  }
  await model.close();
});

test("a browser gives Python's answers but for rounding", async (t) => {
  const browser = await launch();
  const server = await serveFolders({
    "/js": `${ROOT}runtime/js`,
    "/bundle": join(scratch, "int8"),
    "/onnxruntime": `${ROOT}runtime/js/node_modules/onnxruntime-web/dist`,
  });
  try {
    const page = await browser.newPage();
    await page.goto(`${server.address}/js/tests/page.html`);
    await page.waitForFunction(() => "api" in window);
    const got = await page.evaluate(async (asked) => {
      const model = await api.load(new URL("/bundle", location.href).href);
      const all = [];
      for (const { budget, shape, data } of asked) {
        const pixels = { shape, data: Float32Array.from(data) };
        const result = await model.run({ pixels }, { budget: api.Budget.fraction(budget) });
        all.push([Array.from(result.outputs.logits.data), Array.from(result.macsFraction)]);
      }
      await model.close();
      return all;
    }, expected);
    expected.forEach(({ budget, logits, macs_fraction }, number) => {
      const far = [largest(got[number][0], logits), largest(got[number][1], macs_fraction)];
      t.diagnostic(`${budget}: logits within ${far[0].toExponential(1)}, work within ${far[1].toExponential(1)}`);
      assert.ok(far[0] <= LOGITS && far[1] <= WORK, `${budget}: ${far}`);
    });
    // What another budget gives is not taken for the same.
    assert.ok(largest(got[0][0], expected[2].logits) > LOGITS);
  } finally {
    await browser.close();
    server.close();
  }
});
