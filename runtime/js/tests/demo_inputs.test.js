/** The demo's inputs are those of the Python runtime: of pictures by Pillow, of texts by the package tokenizers. */

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { after, before, test } from "node:test";

import { build } from "esbuild";

import { printedLines } from "./python_lines.js";

const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
const COUNT = 300;
/** Of 255: versions of Pillow differ by as much, by whether they resize lines or columns first. */
const MOST_STEPS = 2;

let scratch;

/** A module of the page, compiled for Node.js. */
async function compiled(name) {
  const outfile = join(scratch, `${name}.mjs`);
  const options = { bundle: true, platform: "node", format: "esm", packages: "external", logLevel: "error" };
  await build({ ...options, entryPoints: [`${PACKAGE}demo/src/${name}.ts`], outfile });
  return import(pathToFileURL(outfile).href);
}

before(async () => {
  scratch = await mkdtemp(join(PACKAGE, "node_modules/.demo-test-"));
});

after(() => rm(scratch, { recursive: true }));

test("pictures become the same numbers", async (t) => {
  const { pictureInput } = await compiled("picture_input");
  const all = printedLines("tests.conformance.random_inputs", "pictures", "--count", String(COUNT), "--seed", "7");
  assert.equal(all.length, COUNT);
  let exact = 0;
  for (const { width, height, pixels, spec, values } of all) {
    const { tensor, shown } = pictureInput({ width, height, data: Uint8Array.from(pixels) }, spec);
    const { scale, std, resize } = spec.preprocessing;
    const step = scale / Math.min(...std);
    const furthest = values.reduce((most, value, place) => Math.max(most, Math.abs(value - tensor.data[place])), 0);
    const where = JSON.stringify({ width, height, spec });
    if (resize === "none") assert.equal(furthest, 0, where);
    assert.ok(furthest < (MOST_STEPS + 0.01) * step, `${furthest / step} steps: ${where}`);
    if (furthest === 0) exact++;
    assert.deepEqual(tensor.shape, [1, ...spec.shape.slice(1)]);
    assert.deepEqual([shown.width, shown.height], [spec.preprocessing.width, spec.preprocessing.height]);
  }
  t.diagnostic(`${exact} of ${COUNT} pictures bit for bit, the others within ${MOST_STEPS} steps of 255`);
  assert.ok(exact > 0.85 * COUNT);
});

test("texts become the same numbers, are cut and padded alike", async (t) => {
  const { TextInputEncoder } = await compiled("text_input");
  const all = printedLines("tests.conformance.random_inputs", "texts");
  let compared = 0;
  let refused = 0;
  for (const { name, tokenizer, bundle, texts } of all) {
    const encoder = new TextInputEncoder(bundle, new TextEncoder().encode(JSON.stringify(tokenizer)));
    for (const { text, inputs } of texts) {
      const where = `${name}: ${JSON.stringify(text)}`;
      if (inputs === null) {
        assert.throws(() => encoder.encode(text), { name: "InputError" }, where);
        refused++;
        continue;
      }
      const made = encoder.encode(text);
      const got = Object.fromEntries(
        Object.entries(made.inputs).map(([input, { data }]) => [input, Array.from(data, Number)]),
      );
      assert.deepEqual(got, inputs, where);
      assert.equal(made.tokens.length, inputs.ids.length);
      compared++;
    }
  }
  t.diagnostic(`${all.length} tokenizers and recipes: ${compared} texts alike, ${refused} refused`);
  assert.ok(compared > 150 && refused > 5);
});

test("what is no tokenizer is refused in one line", async () => {
  const { TextInputEncoder } = await compiled("text_input");
  const bundle = { inputs: [], axes: {}, text: { inputs: {} } };
  for (const content of ["", "{}", "[]", '{"model": {"type": "Unknown"}}']) {
    assert.throws(
      () => new TextInputEncoder(bundle, new TextEncoder().encode(content)),
      ({ name, message }) => name === "BundleError" && !message.includes("\n"),
      content,
    );
  }
});
