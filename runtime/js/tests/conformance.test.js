/** The kit, in node over onnxruntime-node. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, describe, test } from "node:test";

import * as api from "adaptrt";

import { checkCase, checkDamaged, checkRefusedCalls, checkTrace, Mismatch, readCase } from "./kit_check.js";
import { folder, KIT, kit } from "./node_kit.js";

const index = await kit.json("index.json");
const names = index.cases.map((entry) => entry.name);
const loaded = new Map();

async function model(name) {
  if (!loaded.has(name)) loaded.set(name, api.load(folder((await readCase(kit, name)).content.bundle), { threads: 1 }));
  return loaded.get(name);
}

after(async () => {
  for (const one of loaded.values()) await (await one).close();
});

for (const name of names) {
  test(`case ${name}`, async (t) => {
    const one = await readCase(kit, name);
    const { compared, largest } = await checkCase(api, await model(name), one);
    assert.equal(compared, one.content.runs.length + one.content.look_ups.length);
    t.diagnostic(`${name}: ${compared} comparisons, largest difference ${largest.toExponential(1)}`);
  });
}

test("wrong inputs, budgets and knobs are refused", async () => {
  assert.ok(Object.keys(await checkRefusedCalls(api, kit, model)).length > 20);
});

test("damaged bundles are refused", async () => {
  const open = (bundle) => api.FolderSource.open(folder(bundle));
  const messages = await checkDamaged(api, kit, open, (source) => api.load(source, { threads: 1 }));
  assert.ok(Object.keys(messages).length > 30);
});

for (const file of index.traces) {
  test(`trace ${file}`, async (t) => {
    const lines = (await readFile(KIT + file, "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const { calls, largest } = checkTrace(api, file, lines);
    assert.equal(calls, 500);
    t.diagnostic(`${file}: largest relative difference ${largest.toExponential(1)}`);
  });
}

describe("an altered expectation is noticed", () => {
  let one;
  before(async () => {
    one = await readCase(kit, "map");
  });
  const run = (content) => content.runs[2].expected;
  const altered = {
    "a knob": (content) => (run(content).knobs.price = 0.987),
    "an exit": (content) => (run(content).exit[0] ^= 1),
    "whether it is met": (content) => (run(content).reachable = !run(content).reachable),
    "an output's place": (content) => (run(content).outputs.map.offset += 4),
    "an output's name": (content) => (run(content).outputs = { heat: run(content).outputs.map }),
    "the work": (content) => (run(content).macs_fraction.offset = run(content).outputs.map.offset),
    "the work of a look-up": (content) => (content.look_ups.at(-1).work = 0.4),
    "the knobs of a look-up": (content) => (content.look_ups.at(-1).knobs = {}),
  };
  for (const [what, alter] of Object.entries(altered)) {
    test(what, async () => {
      const content = structuredClone(one.content);
      alter(content);
      await assert.rejects(checkCase(api, await model("map"), { content, arrays: one.arrays }), Mismatch);
    });
  }
  test("a choice of a trace", async () => {
    const lines = (await readFile(KIT + index.traces[0], "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    lines[40][2] += 0.01;
    assert.throws(() => checkTrace(api, "trace", lines), Mismatch);
  });
});
