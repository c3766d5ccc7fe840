/** The package in a real headless Chromium over onnxruntime-web. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { launch } from "./chromium.js";
import { kit, ROOT } from "./node_kit.js";
import { serveFolders } from "./static_server.js";

const NAMES = (await kit.json("index.json")).cases.map((entry) => entry.name);
/** One stage, exits with a mask of tokens, words: each in a worker of its own, too. */
const IN_WORKERS = ["one_stage", "exits_certainty", "text"];
const LONGEST_FRAME_MS = 50;

let browser;
let server;
let page;

/** A page of its own context: nothing is kept from another one. */
async function open() {
  const context = await browser.newContext();
  const fresh = await context.newPage();
  fresh.on("pageerror", (error) => console.error("page:", error.message));
  await fresh.goto(`${server.address}/js/tests/page.html`);
  await fresh.waitForFunction(() => "api" in window);
  return fresh;
}

before(async () => {
  browser = await launch();
  server = await serveFolders({
    "/js": `${ROOT}runtime/js`,
    "/tests": `${ROOT}tests`,
    "/onnxruntime": `${ROOT}runtime/js/node_modules/onnxruntime-web/dist`,
  });
  page = await open();
});

after(async () => {
  await browser?.close();
  server?.close();
});

describe("the conformance kit", () => {
  for (const name of NAMES) {
    test(`case ${name}`, async (t) => {
      const { compared, largest, wanted } = await page.evaluate(async (name) => {
        const one = await check.readCase(kit, name);
        const model = await api.load(address(one.content.bundle));
        const seen = await check.checkCase(api, model, one);
        await model.close();
        return { ...seen, wanted: one.content.runs.length + one.content.look_ups.length };
      }, name);
      assert.equal(compared, wanted);
      t.diagnostic(`${name}: ${compared} comparisons, largest difference ${largest.toExponential(1)}`);
    });
  }

  for (const name of IN_WORKERS) {
    test(`case ${name} in a worker`, async () => {
      const { compared, wanted } = await page.evaluate(async (name) => {
        const one = await check.readCase(kit, name);
        const model = await api.loadInWorker(address(one.content.bundle), { onnxruntime });
        const seen = await check.checkCase(api, model, one);
        await model.close();
        return { ...seen, wanted: one.content.runs.length + one.content.look_ups.length };
      }, name);
      assert.equal(compared, wanted);
    });
  }

  test("wrong inputs, budgets and knobs are refused, in a worker, too", async () => {
    const [here, there] = await page.evaluate(async () => {
      const all = [];
      for (const load of [api.load, (place) => api.loadInWorker(place, { onnxruntime })]) {
        const loaded = new Map();
        const models = async (name) => {
          const { content } = await check.readCase(kit, name);
          if (!loaded.has(name)) loaded.set(name, await load(address(content.bundle)));
          return loaded.get(name);
        };
        all.push(await check.checkRefusedCalls(api, kit, models));
        for (const model of loaded.values()) await model.close();
      }
      return all;
    });
    assert.ok(Object.keys(here).length > 20);
    assert.deepEqual(there, here);
  });

  test("damaged bundles are refused", async () => {
    const messages = await page.evaluate(async () => {
      const source = async (bundle) => new api.UrlSource(address(bundle));
      return check.checkDamaged(api, kit, source, (damaged) => api.load(damaged, { cache: null }));
    });
    assert.ok(Object.keys(messages).length > 30);
  });

  test("traces of the controller", async () => {
    const largest = await page.evaluate(async () => {
      const { traces } = await kit.json("index.json");
      const all = [];
      for (const file of traces) {
        const lines = new TextDecoder()
          .decode(await kit.bytes(file))
          .trim()
          .split("\n");
        all.push(
          check.checkTrace(
            api,
            file,
            lines.map((line) => JSON.parse(line)),
          ),
        );
      }
      return all;
    });
    assert.deepEqual(
      largest.map(({ calls }) => calls),
      [500, 500, 500, 500],
    );
  });
});

describe("loading", () => {
  test("tells its progress, and fetches files once", async () => {
    const fresh = await open();
    const load = () =>
      fresh.evaluate(async () => {
        const shares = [];
        const cached = new Set();
        const onProgress = (progress) => {
          shares.push(progress.share);
          if (progress.phase === "files" && progress.cached) cached.add(progress.file);
        };
        const place = address("../../runtime/fixtures/exits");
        const model = await api.loadInWorker(place, { onnxruntime, onProgress });
        await model.close();
        return { shares, cached: [...cached] };
      });
    server.requests.length = 0;
    const first = await load();
    const asked = server.requests.filter((path) => path.endsWith(".onnx"));
    assert.equal(asked.length, 3);
    assert.deepEqual(first.cached, []);
    server.requests.length = 0;
    const second = await load();
    assert.deepEqual(
      server.requests.filter((path) => path.endsWith(".onnx")),
      [],
    );
    assert.deepEqual(second.cached.sort(), ["stage0.onnx", "stage1.onnx", "stage2.onnx"]);
    for (const { shares } of [first, second]) {
      assert.equal(shares.at(-1), 1);
      assert.deepEqual(
        shares,
        [...shares].sort((one, other) => one - other),
      );
    }
    await fresh.context().close();
  });

  test("a file that was altered in the cache is fetched again", async () => {
    const fresh = await open();
    const load = () => fresh.evaluate(async () => (await api.load(address("../../runtime/fixtures/tiny"))).close());
    await load();
    await fresh.evaluate(async () => {
      const cache = await caches.open("adaptrt");
      for (const request of await cache.keys()) await cache.put(request, new Response("altered"));
    });
    server.requests.length = 0;
    await load();
    assert.equal(server.requests.filter((path) => path.endsWith(".onnx")).length, 1);
    await fresh.context().close();
  });

  test("can be ended", async () => {
    const name = await page.evaluate(async () => {
      const controller = new AbortController();
      const loading = api.loadInWorker(address("bundles/map"), { onnxruntime, signal: controller.signal });
      controller.abort();
      return loading.catch((error) => error.name);
    });
    assert.equal(name, "AbortError");
  });

  test("what is missing is said in one line", async () => {
    const message = (place, options) =>
      page.evaluate(
        async ([place, options]) =>
          api.loadInWorker(place, options).then(
            () => "loaded",
            (error) => `${error.name}: ${error.message}`,
          ),
        [place, options],
      );
    const tiny = "/tests/runtime/fixtures/tiny";
    const nowhere = await message("/tests/nowhere", { onnxruntime: "/onnxruntime/ort.wasm.min.mjs" });
    assert.match(nowhere, /^BundleError: no bundle\.json in '.*nowhere'; expected a bundle/u);
    assert.match(await message(tiny, { onnxruntime: "/nowhere.mjs" }), /^BackendError: .* cannot be imported/u);
    assert.match(await message(tiny, {}), /^BackendError: onnxruntime-web\/wasm cannot be imported .*npm install/u);
  });
});

describe("a worker", () => {
  test("a budget that is set holds for the very next call", async () => {
    const shares = await page.evaluate(async () => {
      const { content, arrays } = await check.readCase(kit, "exits_max_softmax");
      const inputs = arrays.getAll(content.inputs);
      const model = await api.loadInWorker(address(content.bundle), { onnxruntime });
      const calls = [];
      const asked = [];
      for (let step = 0; step < 20; step++) {
        const share = 0.3 + 0.05 * ((step * 7) % 13);
        model.budget = api.Budget.fraction(share);
        asked.push(model.operatingPoint().knobs);
        calls.push(model.run(inputs)); // without waiting for the one before
      }
      const got = (await Promise.all(calls)).map((result) => [result.budget.value, result.knobs]);
      await model.close();
      return { got, asked };
    });
    assert.deepEqual(
      shares.got.map(([, knobs]) => knobs),
      shares.asked,
    );
    assert.equal(new Set(shares.got.map(([value]) => value)).size, 13);
  });

  test("the page stays smooth while it computes", async (t) => {
    const { calls, frames, tasks } = await page.evaluate(async () => {
      const { content, arrays } = await check.readCase(kit, "exits_certainty");
      const one = arrays.getAll(content.inputs);
      const repeat = ({ dtype, shape, data }, times) => {
        const whole = new data.constructor(data.length * times);
        for (let time = 0; time < times; time++) whole.set(data, time * data.length);
        return { dtype, shape: [shape[0] * times, ...shape.slice(1)], data: whole };
      };
      const inputs = Object.fromEntries(Object.entries(one).map(([name, tensor]) => [name, repeat(tensor, 200)]));
      const model = await api.loadInWorker(address(content.bundle), { onnxruntime });
      await model.run(inputs);
      const frames = [];
      const tasks = [];
      new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration))).observe({
        type: "longtask",
      });
      let going = true;
      let last = performance.now();
      const frame = (now) => {
        frames.push(now - last);
        last = now;
        if (going) requestAnimationFrame(frame);
      };
      requestAnimationFrame((now) => {
        last = now;
        requestAnimationFrame(frame);
      });
      const end = performance.now() + 2000;
      let calls = 0;
      for (; performance.now() < end; calls++) {
        await model.run(inputs, { budget: api.Budget.fraction(0.3 + 0.1 * (calls % 7)) });
      }
      going = false;
      await model.close();
      return { calls, frames, tasks };
    });
    const sorted = frames.sort((one, other) => one - other);
    t.diagnostic(
      `${calls} calls, ${frames.length} frames: median ${sorted[frames.length >> 1].toFixed(1)} ms, longest ` +
        `${sorted.at(-1).toFixed(1)} ms`,
    );
    assert.ok(calls > 5 && frames.length > 20);
    // A task of the page is its own work; a frame can also wait for another process that has the core.
    assert.deepEqual(tasks, [], "the page had tasks of more than 50 ms");
    const late = frames.filter((one) => one > LONGEST_FRAME_MS).length;
    assert.ok(late <= frames.length / 20, `${late} of ${frames.length} frames took more than ${LONGEST_FRAME_MS} ms`);
  });

  test("a latency budget and a deadline are held", async () => {
    const result = await page.evaluate(async () => {
      const { content, arrays } = await check.readCase(kit, "exits_max_softmax");
      const inputs = arrays.getAll(content.inputs);
      const model = await api.loadInWorker(address(content.bundle), { onnxruntime });
      const shares = [];
      const profile = await model.profile(inputs, { seconds: 0.2, onProgress: (share) => shares.push(share) });
      model.budget = api.Budget.latency(1000);
      const easy = await model.run(inputs);
      await model.useProfile(profile);
      const again = await model.run(inputs, { budget: api.Budget.latency(1e-6) });
      const hasty = await model.run(inputs, { deadlineMs: 1e-6 });
      const other = await model
        .useProfile({ ...profile, key: { ...profile.key, threads: 7 } })
        .catch((error) => error.message);
      await model.close();
      return { easy, again, hasty: Array.from(hasty.exit), other, shares };
    });
    assert.equal(result.easy.targetMet, true);
    assert.equal(result.easy.reachable, true);
    assert.equal(result.again.reachable, false);
    assert.deepEqual(result.hasty, new Array(10).fill(0));
    assert.match(result.again.message, /cheapest calibrated point is expected to take up to/u);
    assert.match(result.other, /got a profile with threads 7, expected null; profile again/u);
    assert.equal(result.shares.at(-1), 1);
  });

  test("after close nothing is answered, and nothing waits for ever", async () => {
    const messages = await page.evaluate(async () => {
      const { content, arrays } = await check.readCase(kit, "one_stage");
      const model = await api.loadInWorker(address(content.bundle), { onnxruntime });
      await model.close();
      const late = await model.run(arrays.getAll(content.inputs)).catch((error) => `${error.name}: ${error.message}`);
      const broken = new Worker(URL.createObjectURL(new Blob(["throw new Error('no worker')"])));
      const never = await api
        .loadInWorker(address(content.bundle), { onnxruntime, worker: broken })
        .catch((error) => `${error.name}: ${error.message}`);
      return { late, never };
    });
    assert.match(messages.late, /^BackendError: got a call of .* after close\(\)/u);
    assert.match(messages.never, /^BackendError: got an error of the worker \(.*no worker/u);
  });
});
