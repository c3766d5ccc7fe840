/** Loading in node: folders, addresses, files of weights, what is refused. */

import assert from "node:assert/strict";
import { cp, mkdtemp, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { after, before, describe, test } from "node:test";

import { BundleError, FolderSource, load } from "adaptrt";

import { folder } from "./node_kit.js";
import { externalBundle, memorySource } from "./onnx_model.js";
import { serveFolders } from "./static_server.js";

const TINY = folder("../../runtime/fixtures/tiny");
const EXITS = folder("../../runtime/fixtures/exits");
const X = { x: { shape: [1, 4], data: new Float32Array(4) } };

let scratch;
let server;

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "adaptrt-"));
  server = await serveFolders({ "/bundles": TINY });
});

after(async () => {
  server.close();
  await rm(scratch, { recursive: true });
});

async function copied(bundle, name) {
  const place = join(scratch, name);
  await cp(bundle, place, { recursive: true });
  return place;
}

async function refusal(place, pattern) {
  await assert.rejects(load(place), (error) => {
    assert.ok(error instanceof BundleError, error.stack);
    assert.match(error.message, pattern);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
}

test("a folder, its file: address and its http: address give the same", async () => {
  const results = [];
  for (const place of [TINY, pathToFileURL(TINY), pathToFileURL(TINY).href, `${server.address}/bundles/`]) {
    const model = await load(place);
    results.push((await model.run(X)).outputs);
    await model.close();
  }
  for (const result of results) assert.deepEqual(result, results[0]);
});

test("progress goes from 0 to 1", async () => {
  const shares = [];
  const model = await load(EXITS, { onProgress: ({ share }) => shares.push(share) });
  await model.close();
  assert.ok(
    shares[0] === 0 && shares.at(-1) === 1 && shares.every((one, index) => index === 0 || one >= shares[index - 1]),
  );
});

test("loading can be ended", async () => {
  await assert.rejects(load(EXITS, { signal: AbortSignal.abort() }), { name: "AbortError" });
});

describe("the dense model's graph", () => {
  /** The kit's adapted bundle, whose file of the dense model is as `dense` makes it. */
  async function source(dense) {
    const whole = await FolderSource.open(folder("bundles/adapted"));
    const asked = [];
    const read = async (path, options) => {
      asked.push(path);
      return path === "dense.onnx" ? dense(await whole.read(path, options)) : whole.read(path, options);
    };
    return { place: "memory", read, asked };
  }

  test("is taken where it is there, and may be left out", async () => {
    for (const [dense, options, expected] of [
      [(content) => content, {}, true],
      [() => null, {}, false],
      [(content) => content, { dense: false }, false],
    ]) {
      const files = await source(dense);
      const model = await load(files, options);
      assert.equal(model.answersByDense, expected);
      assert.equal(files.asked.includes("dense.onnx"), options.dense !== false);
      await model.close();
    }
  });

  test("is refused where it is altered or another one", async () => {
    const altered = (content) => Uint8Array.from(content, (byte, index) => (index === 50 ? byte ^ 1 : byte));
    await refusal(await source(altered), /'dense\.onnx' was changed or damaged/u);
    const whole = await FolderSource.open(folder("bundles/adapted"));
    const bundle = JSON.parse(new TextDecoder().decode(await whole.read("bundle.json", { limit: 1e6 })));
    const [, , last] = bundle.stages;
    bundle.dense = { ...bundle.dense, file: last.file, sha256: last.sha256 };
    const other = Buffer.from(JSON.stringify(bundle));
    const read = (path, options) => (path === "bundle.json" ? other : whole.read(path, options));
    await refusal(
      { place: "memory", read },
      /the graph's inputs are .*, expected some of .*, as it stands for all stages/u,
    );
  });
});

describe("what is refused", () => {
  test("no folder, a file, an empty folder, nothing at an address", async () => {
    await refusal(
      join(scratch, "nowhere"),
      /^no folder '.*nowhere'; expected a bundle, as `adaptrt export` writes it$/u,
    );
    await refusal(join(TINY, "bundle.json"), /is not a folder; give the folder that holds bundle\.json$/u);
    await refusal(scratch, /^no bundle\.json in '/u);
    await refusal(`${server.address}/bundles/nowhere`, /^no bundle\.json in '.*nowhere'; expected a bundle/u);
    await refusal("http://localhost:1/x", /bundle\.json: cannot be read \(.*\); check the address/u);
  });

  test("a bundle.json that is too large is not read", async () => {
    const place = await copied(TINY, "large");
    await truncate(join(place, "bundle.json"), 17 * 2 ** 20);
    await refusal(place, /bundle\.json: 17825792 bytes, expected at most 16777216; export the model again$/u);
  });

  test("a link out of the folder", async () => {
    const place = await copied(TINY, "linked");
    await rm(join(place, "model.onnx"));
    await symlink(join(TINY, "model.onnx"), join(place, "model.onnx"));
    await refusal(place, /'model\.onnx' is a link that leaves the folder, expected a file inside it; copy the bundle/u);
  });

  test("a graph that is none, though its hash is right", async () => {
    const files = externalBundle();
    const { createHash } = await import("node:crypto");
    const other = Buffer.from("no graph");
    const bundle = JSON.parse(files["bundle.json"]);
    bundle.stages[0].sha256 = createHash("sha256").update(other).digest("hex");
    files["bundle.json"] = Buffer.from(JSON.stringify(bundle));
    files["model.onnx"] = other;
    await refusal(memorySource(files), /'model\.onnx' is not an ONNX file \(.*\); export the model again$/u);
  });

  test("deep nesting, numbers that no float holds, what is no UTF-8", async () => {
    for (const content of ["[".repeat(100_000), '{"format_version": 1e999}', Buffer.from([0x22, 0xff, 0x22])]) {
      await refusal(memorySource({ "bundle.json": Buffer.from(content) }), /bundle\.json: not readable as JSON \(/u);
    }
  });

  test("names that objects have by themselves are plain names", async () => {
    const content = '{"format_version": 2, "__proto__": {"name": "x"}, "constructor": 1}';
    await refusal(memorySource({ "bundle.json": Buffer.from(content) }), /missing required field `name`/u);
  });
});

describe("weights beside the graph", () => {
  const input = { x: { shape: [1, 2], data: new Float32Array([0.5, 0.25]) } };

  for (const [what, files] of [
    ["in the folder", externalBundle()],
    ["in a folder below", externalBundle({ file: "a/model.onnx", listed: ["a/model.onnx.data"] })],
  ]) {
    test(`are read ${what}`, async () => {
      const model = await load(memorySource(files));
      const { outputs, macsFraction } = await model.run(input);
      assert.deepEqual(Array.from(outputs.y.data), [10.5, 20.25]);
      assert.deepEqual(Array.from(macsFraction), [0.25]);
      await model.close();
    });
  }

  test("are read from a real folder", async () => {
    const place = await mkdtemp(join(scratch, "external-"));
    for (const [name, content] of Object.entries(externalBundle())) await writeFile(join(place, name), content);
    const model = await load(place);
    assert.deepEqual(Array.from((await model.run(input)).outputs.y.data), [10.5, 20.25]);
    await model.close();
  });

  test("are refused where they are not listed, outside, gone or altered", async () => {
    await refusal(
      memorySource(externalBundle({ listed: [] })),
      /keeps weights in 'model\.onnx\.data', expected one of/u,
    );
    for (const location of ["../model.onnx.data", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", ""]) {
      const pattern = /'model\.onnx' keeps weights in another file: path .*, expected a relative path inside/u;
      await refusal(memorySource(externalBundle({ location })), pattern);
    }
    const gone = externalBundle();
    delete gone["model.onnx.data"];
    await refusal(memorySource(gone), /'model\.onnx\.data' is missing, expected the file that bundle\.json names/u);
    const altered = externalBundle();
    altered["model.onnx.data"] = Buffer.alloc(8);
    await refusal(memorySource(altered), /'model\.onnx\.data' was changed or damaged: sha256 is/u);
  });
});
