/** The examples of the page run as they stand there, but for the bundle, which is a small one. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { test } from "node:test";

import { launch } from "./chromium.js";
import { ROOT } from "./node_kit.js";
import { serveFolders } from "./static_server.js";

const PACKAGE = fileURLToPath(new URL("../", import.meta.url));
const BUNDLE = `${ROOT}tests/runtime/fixtures/exported`;
const page = await readFile(`${PACKAGE}README.md`, "utf8");
const embedding = await readFile(`${ROOT}docs/embed.md`, "utf8");

/** The blocks of a language, with the small bundle's sizes. */
function blocks(language, text = page) {
  const found = [...text.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, "gsu"))];
  return found.map(([, code]) => code.replaceAll("8, 8]", "4, 4]").replaceAll("Float32Array(64)", "Float32Array(16)"));
}

const scripts = [...blocks("js"), ...blocks("js", embedding)];

for (const [number, code] of scripts.entries()) {
  test(`script ${number + 1}`, async () => {
    const script = `globalThis.localStorage ??= undefined;\n${code.replaceAll("build/digits", BUNDLE)}`;
    const { stdout } = await promisify(execFile)("node", ["--input-type=module", "--eval", script], { cwd: PACKAGE });
    assert.equal(stdout.trim().split("\n").length >= 1, true);
    assert.match(stdout, /\d/u);
  });
}

test("there are scripts and a page", () => {
  assert.deepEqual([scripts.length, blocks("html").length], [3, 1]);
});

test("the page, where a slider is moved", async () => {
  const folders = {
    "/node_modules/adaptrt": PACKAGE,
    "/node_modules/onnxruntime-web": `${PACKAGE}node_modules/onnxruntime-web`,
    "/build/digits": BUNDLE,
  };
  const server = await serveFolders(folders, { "/index.html": blocks("html")[0] });
  const browser = await launch();
  try {
    const tab = await browser.newPage();
    const errors = [];
    tab.on("pageerror", (error) => errors.push(error.message));
    await tab.goto(`${server.address}/index.html`);
    const answer = tab.locator("#answer");
    const shown = /^\d with (\d+)% of the work, [\d.]+ ms$/u;
    await tab.waitForFunction(() => document.getElementById("answer").textContent !== "");
    for (const share of ["0.1", "0.7", "1.1"]) {
      await tab.evaluate(() => (document.getElementById("answer").textContent = ""));
      await tab.locator("#share").fill(share);
      await tab.waitForFunction(() => document.getElementById("answer").textContent !== "");
      assert.match(await answer.textContent(), shown);
    }
    assert.equal(await tab.locator("#loading").getAttribute("value"), "1");
    assert.deepEqual(errors, []);
  } finally {
    await browser.close();
    server.close();
  }
});

test("what package.json names is in the package", async () => {
  const { stdout } = await promisify(execFile)("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: PACKAGE,
  });
  const packed = JSON.parse(stdout)[0].files.map(({ path }) => path);
  const { exports } = JSON.parse(await readFile(`${PACKAGE}package.json`, "utf8"));
  const named = JSON.stringify(exports).match(/dist\/[\w/]+(\.d)?\.(js|ts)/gu);
  assert.ok(named.length >= 7);
  for (const path of [...named, "LICENSE"]) assert.ok(packed.includes(path), path);
  assert.ok(packed.every((path) => /^(dist\/|README\.md$|LICENSE$|package\.json$)/u.test(path)));
});
