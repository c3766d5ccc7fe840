/**
 * Beside the Python runtime of this repository: bundles are judged in the same words, budgets looked up to the last
 * bit.
 */

import assert from "node:assert/strict";
import { test } from "node:test";

import { Invalid } from "../dist/bundle/expectations.js";
import { decodeBundle } from "../dist/bundle/json_form.js";
import { checkBundle } from "../dist/bundle/validation.js";
import { lookUp } from "../dist/control/budget_table.js";
import { printedLines } from "./python_lines.js";

const COUNT = 2000;

function saidOf(text) {
  try {
    checkBundle(decodeBundle(new TextEncoder().encode(text)));
    return null;
  } catch (error) {
    if (!(error instanceof Invalid)) throw error;
    return error.message;
  }
}

/** Whole numbers beyond 2^53 lose their last digits in messages. */
const shortened = (message) => message?.replace(/\d{17,}/gu, "#");

test("randomly damaged bundles are judged alike, in the same words", (t) => {
  const all = printedLines("tests.conformance.mutations", "--count", String(COUNT), "--seed", "7");
  assert.equal(all.length, COUNT);
  let [fine, former] = [0, 0];
  for (const { text, message } of all) {
    const got = saidOf(text);
    assert.equal(got === null, message === null, `${message} | ${got}`);
    if (got === null) fine++;
    else if (got.startsWith("format_version is 1,"))
      former++; // Python reads some of that format
    else assert.equal(shortened(got), shortened(message));
  }
  t.diagnostic(`${COUNT} bundles: ${fine} fine, ${former} of format 1`);
  assert.ok(fine > COUNT / 20 && fine < COUNT / 2 && former < COUNT / 20);
});

test("budgets are looked up to the last bit", () => {
  const all = printedLines("tests.conformance.random_look_ups", "--count", String(COUNT), "--seed", "7");
  assert.equal(all.length, COUNT);
  for (const { row, share, dtype, answer } of all) {
    const { knobs, work, quality, reachable } = lookUp([row], share, new Map([["k", dtype]]));
    assert.deepEqual([{ ...knobs }, work, quality, reachable], answer, JSON.stringify({ row, share, dtype }));
  }
});
