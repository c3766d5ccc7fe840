/**
 * What this runtime adds to ONNX Runtime in Node.js, and how fast and smooth it is in a headless Chromium:
 *
 *     npm run measure -- BUNDLE
 *
 * BUNDLE has one input of fractions whose sizes are fixed but for the batch, such as build/digits.
 */

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { Budget, load } from "adaptrt";
import * as ort from "onnxruntime-node";

import { launch } from "../tests/chromium.js";
import { serveFolders } from "../tests/static_server.js";

const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
const SHARES = [0.3, 0.5, 0.75, 1.1];
const ROUNDS = 15;
/** Milliseconds of each round: calls are compiled on the way, the first ones slowly. */
const ROUND_MS = 100;

const place = process.argv[2];
if (place === undefined) throw new Error("got no bundle, expected its folder: npm run measure -- build/digits");

function median(values) {
  return [...values].sort((one, other) => one - other)[values.length >> 1];
}

/** The median of calls for some time, in milliseconds. */
async function timed(call) {
  const times = [];
  const end = performance.now() + ROUND_MS;
  while (times.length < 10 || performance.now() < end) {
    const begun = performance.now();
    await call();
    times.push(performance.now() - begun);
  }
  return median(times);
}

/** One sample, the same each time. */
function sample(bundle) {
  const [spec] = bundle.inputs;
  const shape = spec.shape.map((size) => (typeof size === "number" ? size : 1));
  const count = shape.reduce((all, size) => all * size, 1);
  const data = Float32Array.from({ length: count }, (_, index) => (index % 17) / 17);
  return { name: spec.name, shape, data };
}

async function inNode() {
  const model = await load(place, { threads: 1 });
  const { name, shape, data } = sample(model.bundle);
  const inputs = { [name]: { shape, data } };
  console.log(`in Node.js ${process.version}, ${model.engine}, one thread, one sample`);
  if (model.bundle.stages.length > 1) {
    for (const share of SHARES) {
      const budget = Budget.fraction(share);
      const milliseconds = await timed(() => model.run(inputs, { budget }));
      console.log(`  budget ${share}: ${milliseconds.toFixed(3)} ms`);
    }
    await model.close();
    return;
  }
  const content = await readFile(`${place}/${model.bundle.stages[0].file}`);
  const session = await ort.InferenceSession.create(content, { executionProviders: ["cpu"], intraOpNumThreads: 1 });
  const outputs = model.bundle.outputs.map((spec) => spec.name);
  for (const share of SHARES) {
    const budget = Budget.fraction(share);
    const { knobs, macsFraction } = await model.run(inputs, { budget });
    const feeds = { [name]: new ort.Tensor("float32", data, shape) };
    for (const knob of model.bundle.knobs) {
      feeds[knob.name] = new ort.Tensor(knob.dtype, Float32Array.from([knobs[knob.name]].flat()), knob.shape);
    }
    const [bare, ours] = [[], []];
    for (let round = 0; round < ROUNDS; round++) {
      bare.push(await timed(() => session.run(feeds, outputs)));
      ours.push(await timed(() => model.run(inputs, { budget })));
    }
    const more = median(ours.map((one, round) => one - bare[round])) * 1e3;
    const work = `${(100 * macsFraction[0]).toFixed(0)}% of the work`;
    console.log(`  ${work}: session.run ${median(bare).toFixed(3)} ms, model.run ${more.toFixed(1)} us more`);
  }
  await model.close();
  await session.release();
}

/** Runs in the page. */
async function inPage({ name, shape, data, shares }) {
  const { Budget, loadInWorker } = await import("/js/dist/browser.js");
  const onnxruntime = "/onnxruntime/ort.wasm.min.mjs";
  const inputs = { [name]: { shape, data: Float32Array.from(data) } };
  const begun = performance.now();
  const model = await loadInWorker("/bundle", { onnxruntime });
  const loaded = performance.now() - begun;
  await model.run(inputs);
  const first = performance.now() - begun;
  for (let call = 0; call < 200; call++) await model.run(inputs);
  const calls = [];
  const frames = [];
  const tasks = [];
  new PerformanceObserver((list) => tasks.push(...list.getEntries())).observe({ type: "longtask" });
  let last = null;
  const frame = (now) => {
    if (last !== null) frames.push(now - last);
    last = now;
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  for (const share of shares) {
    const times = [];
    let work = 0;
    for (let call = 0; call < 60; call++) {
      const result = await model.run(inputs, { budget: Budget.fraction(share) });
      times.push(result.latencyMs);
      work = result.macsFraction[0];
    }
    calls.push({ work, milliseconds: times.sort((one, other) => one - other)[times.length >> 1] });
  }
  return { engine: model.engine, loaded, first, calls, frames, tasks: tasks.length };
}

async function inBrowser() {
  const server = await serveFolders(
    { "/js": PACKAGE, "/onnxruntime": `${PACKAGE}node_modules/onnxruntime-web/dist`, "/bundle": resolve(place) },
    { "/index.html": "<!doctype html><title>measured</title>" },
  );
  const browser = await launch();
  const bundle = JSON.parse(await readFile(`${place}/bundle.json`, "utf8"));
  const page = await browser.newPage();
  await page.goto(`${server.address}/index.html`);
  const one = sample(bundle);
  const got = await page.evaluate(inPage, { ...one, data: Array.from(one.data), shares: SHARES });
  console.log(`in Chromium ${browser.version()}, ${got.engine}, one thread, one sample`);
  console.log(`  loaded after ${got.loaded.toFixed(0)} ms, first result after ${got.first.toFixed(0)} ms`);
  for (const { work, milliseconds } of got.calls) {
    console.log(`  ${(100 * work).toFixed(0)}% of the work: ${milliseconds.toFixed(2)} ms`);
  }
  const longest = Math.max(...got.frames).toFixed(1);
  console.log(
    `  ${got.frames.length} frames meanwhile, median ${median(got.frames).toFixed(1)} ms, longest ${longest} ms`,
  );
  console.log(`  ${got.tasks} tasks of the page took more than 50 ms`);
  await browser.close();
  server.close();
}

await inNode();
await inBrowser();
