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
/** Milliseconds for each share: calls are compiled on the way, the first ones slowly. */
const SHARE_MS = 2000;

const place = process.argv[2];
if (place === undefined) throw new Error("got no bundle, expected its folder: npm run measure -- build/digits");

function median(values) {
  return [...values].sort((one, other) => one - other)[values.length >> 1];
}

async function timed(call) {
  const begun = performance.now();
  await call();
  return performance.now() - begun;
}

/** The medians of two calls in turn, and of what the second took more than the first beside it, in milliseconds. */
async function compared(one, other) {
  const [ones, others] = [[], []];
  const end = performance.now() + SHARE_MS;
  while (performance.now() < end) {
    ones.push(await timed(one));
    others.push(await timed(other));
  }
  const half = ones.length >> 1;
  const differences = others.map((time, index) => time - ones[index]);
  return [ones, others, differences].map((times) => median(times.slice(half)));
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
    console.log("  several stages: there is no single session.run to compare with");
    await model.close();
    return;
  }
  // The very session that the model runs: another one would have its weights elsewhere in the caches.
  const [{ session }] = model.engines.engines;
  const outputs = model.bundle.outputs.map((spec) => spec.name);
  for (const share of SHARES) {
    const budget = Budget.fraction(share);
    const { knobs, macsFraction } = await model.run(inputs, { budget });
    const feeds = { [name]: new ort.Tensor("float32", data, shape) };
    for (const knob of model.bundle.knobs) {
      feeds[knob.name] = new ort.Tensor(knob.dtype, Float32Array.from([knobs[knob.name]].flat()), knob.shape);
    }
    const [bare, , more] = await compared(
      () => session.run(feeds, outputs),
      () => model.run(inputs, { budget }),
    );
    const work = `${(100 * macsFraction[0]).toFixed(0)}% of the work`;
    console.log(`  ${work}: session.run ${bare.toFixed(3)} ms, model.run ${(1e3 * more).toFixed(1)} us more`);
  }
  await model.close();
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
