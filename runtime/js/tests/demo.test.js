/** The demo page in a real headless Chromium, from a static server, as `adaptrt demo` writes it. */

import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { launch } from "./chromium.js";
import { ROOT } from "./node_kit.js";
import { printed } from "./python_lines.js";
import { serveFolders } from "./static_server.js";

const DIGITS = `${ROOT}build/digits`;
/** Of probabilities, between two engines. */
const SAME = 1e-4;
/** A picture of 3 x 2 pixels in colours. */
const COLOURED =
  "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAHElEQVR4nGP4z8DAcEKDS+QXw68PcgwMDA0N/wFBtAcPDn4txAAAAABJRU5ErkJggg==";

const BUNDLES = () => join(scratch, "bundles");

let scratch;
let browser;
let server;

/** What the command line prints. */
function adaptrt(...command) {
  return printed("adaptrt.cli", ...command);
}

/** The page of a demo, ready; what is wrong on it is kept in `faults`. */
async function open(name, { ready = true, viewport = { width: 1200, height: 900 } } = {}) {
  const context = await browser.newContext({ viewport });
  const page = await context.newPage();
  page.faults = [];
  page.on("pageerror", (error) => page.faults.push(error.message));
  page.on("console", (message) => {
    if (message.type() === "error") page.faults.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(`${server.address}/`)) page.faults.push(`asked for ${request.url()}`);
  });
  await page.goto(`${server.address}/${name}/index.html`);
  if (ready) await page.waitForSelector("html[data-ready]");
  return page;
}

async function close(page) {
  assert.deepEqual(page.faults, []);
  await page.context().close();
}

/** Stop the calls that go on while nothing changes, so that each change is followed by one. */
async function pause(page) {
  await page.locator("#pause").click();
  await page.waitForFunction(() => document.querySelector("#answers .bar.dense[data-value]") !== null);
  for (let before = -1, now = 0; before !== now; ) {
    before = now;
    await page.waitForTimeout(500);
    now = await calls(page);
  }
}

const calls = (page) => page.evaluate(() => Number(document.getElementById("chart").dataset.calls));
const exact = (page, id) => page.evaluate((id) => Number(document.getElementById(id).dataset.value), id);

/** What happens in `act` is followed by one call. */
async function afterOneCall(page, act) {
  const before = await calls(page);
  await act();
  await page.waitForFunction((before) => Number(document.getElementById("chart").dataset.calls) > before, before);
  assert.equal(await calls(page), before + 1);
}

/** The probabilities of the classes that are listed, by their names. */
function probabilities(page, whose) {
  return page.evaluate((whose) => {
    const rows = [...document.querySelectorAll("#answers tbody tr")];
    return Object.fromEntries(
      rows.map((row) => [row.dataset.name, Number(row.querySelector(`.bar.${whose}`).dataset.value)]),
    );
  }, whose);
}

/** The page says what Python says of the same input under the same budget. */
async function compare(page, bundle, input) {
  const percent = (await page.locator("#budget-value").textContent()).trim();
  const report = JSON.parse(adaptrt("run", bundle, input, "--budget", percent, "--json"));
  const [{ classes, macs_fraction: work }] = report.results;
  assert.ok(Math.abs((await exact(page, "figure-work")) - work) < 1e-6);
  const shown = await probabilities(page, "adaptive");
  for (const { name, label, class: number, probability } of classes.slice(0, 3)) {
    const key = name ?? String(label ?? number);
    assert.ok(Math.abs(shown[key] - probability) < SAME, `${key}: ${shown[key]}, Python ${probability}`);
  }
  return report;
}

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "adaptrt-demo-"));
  await readFile(`${DIGITS}/bundle.json`).catch(() => {
    throw new Error("got no build/digits, expected it exported; run make js-test, or make export");
  });
  adaptrt("demo", DIGITS, "--output", join(scratch, "digits"));
  printed("tests.demo_bundle", BUNDLES());
  adaptrt("demo", join(BUNDLES(), "text"), "--output", join(scratch, "text"), "--sample", "w5 w6 w7");
  const picture = join(scratch, "coloured.png");
  await writeFile(picture, Buffer.from(COLOURED, "base64"));
  adaptrt("demo", join(BUNDLES(), "staged"), "--output", join(scratch, "staged"), "--sample", picture);
  browser = await launch();
  const names = ["digits", "text", "staged", "damaged", "no_dense", "empty"];
  server = await serveFolders(Object.fromEntries(names.map((name) => [`/${name}`, join(scratch, name)])));
});

after(async () => {
  await browser?.close();
  server?.close();
  await rm(scratch, { recursive: true });
});

describe("pictures", () => {
  let page;
  before(async () => {
    page = await open("digits");
    await pause(page);
  });
  after(() => close(page));

  test("a sample is answered as by Python, and beside it stands the dense model", async () => {
    await compare(page, DIGITS, join(scratch, "digits/samples/00.png"));
    const dense = await probabilities(page, "dense");
    const sum = Object.values(dense).reduce((all, one) => all + one, 0);
    assert.ok(sum > 0.5 && sum < 1 + SAME);
    assert.match(await page.locator("#verdict").textContent(), /dense model/u);
  });

  test("moving the slider, with the keyboard as well, changes the very next call", async () => {
    const work = [await exact(page, "figure-work")];
    await page.locator("#budget").focus();
    await afterOneCall(page, () => page.keyboard.press("Home"));
    work.push(await exact(page, "figure-work"));
    await compare(page, DIGITS, join(scratch, "digits/samples/00.png"));
    await afterOneCall(page, () => page.keyboard.press("End"));
    work.push(await exact(page, "figure-work"));
    assert.ok(work[1] < work[0] && work[0] < work[2], String(work));
    await afterOneCall(page, () => page.locator("#budget").fill("50"));
    assert.equal(await page.locator("#budget-value").textContent(), "50%");
  });

  test("another sample is another picture with other decisions", async () => {
    const drawn = () => page.evaluate(() => document.getElementById("picture").toDataURL());
    const before = await drawn();
    const sample = page.locator("#samples button").nth(3);
    await afterOneCall(page, () => sample.click());
    assert.equal(await sample.getAttribute("aria-pressed"), "true");
    await compare(page, DIGITS, join(scratch, "digits/samples/03.png"));
    assert.notEqual(await drawn(), before);
    const layers = await page.locator("#layers button").allTextContents();
    assert.ok(layers.length > 2 && layers.some((text) => /^gate 1\d?\.\d\d of \d$/u.test(text)), String(layers));
    const overall = await drawn();
    await page.locator("#layers button").first().click();
    assert.notEqual(await drawn(), overall);
  });

  test("a picture that is dropped is answered as by Python, and its name is text", async () => {
    const name = "<img src=x onerror=alert(1)>.png";
    const transfer = await page.evaluateHandle(
      ([base64, name]) => {
        const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
        return transfer;
      },
      [COLOURED, name],
    );
    await afterOneCall(page, () => page.dispatchEvent("#drop", "drop", { dataTransfer: transfer }));
    assert.match(await page.locator("#caption").textContent(), /^<img src=x onerror=alert\(1\)>\.png: 3 × 2 pixels/u);
    assert.equal(await page.locator("#caption img").count(), 0);
    await compare(page, DIGITS, join(scratch, "coloured.png"));
  });

  test("what is no picture is said in one line, until there is another", async () => {
    const broken = { name: "notes.png", mimeType: "image/png", buffer: Buffer.from("no picture") };
    await page.locator("#file").setInputFiles(broken);
    await page.locator("#error").waitFor();
    assert.match(
      await page.locator("#error").textContent(),
      /^the file cannot be read as a picture \(.*\), expected PNG/u,
    );
    await afterOneCall(page, () => page.locator("#samples button").first().click());
    assert.equal(await page.locator("#error").isVisible(), false);
  });

  test("a budget in milliseconds is measured first, and then held by the controller", async () => {
    await page.locator("label[for=unit-time]").click();
    await page.waitForFunction(() => / ms$/u.test(document.getElementById("budget-value").textContent));
    await afterOneCall(page, () => page.locator("#budget").press("End"));
    assert.equal(await page.locator("#budget").isEnabled(), true);
    await afterOneCall(page, () => page.locator("label[for=unit-share]").click());
    assert.match(await page.locator("#budget-value").textContent(), /%$/u);
  });
});

describe("texts", () => {
  let page;
  before(async () => {
    page = await open("text");
    await pause(page);
  });
  after(() => close(page));

  test("what is typed is answered as by Python", async () => {
    await compare(page, join(BUNDLES(), "text"), "w5 w6 w7");
    await afterOneCall(page, () => page.locator("#text").fill("w9 w10 unknown w12"));
    assert.deepEqual(await page.locator("#tokens .token").allTextContents(), [
      "[CLS]",
      "w9",
      "w10",
      "[UNK]",
      "w12",
      "[SEP]",
    ]);
    await compare(page, join(BUNDLES(), "text"), "w9 w10 unknown w12");
    await afterOneCall(page, () => page.locator("#text").fill("w5 ".repeat(30)));
    assert.match(await page.locator("#caption").textContent(), /^8 tokens, .* cut$/u);
  });

  test("words and classes are shown as text, whatever they are", async () => {
    const attack = "<img/src=x/onerror=document.title='taken'>";
    await afterOneCall(page, () => page.locator("#text").fill(`w5 ${attack}`));
    assert.ok((await page.locator("#tokens").textContent()).includes(attack));
    assert.ok(attack in (await probabilities(page, "adaptive")));
    assert.equal(await page.locator("main img, main b").count(), 0);
    assert.doesNotMatch(await page.title(), /taken/u);
  });
});

test("exits, kept tokens and learners are those that Python tells", async () => {
  const page = await open("staged");
  await pause(page);
  for (const key of ["Home", "End"]) {
    await afterOneCall(page, () => page.locator("#budget").press(key));
    const report = await compare(page, join(BUNDLES(), "staged"), join(scratch, "coloured.png"));
    assert.equal(Object.values(report.exits)[await exact(page, "figure-exit")], 1); // samples that left there
    const layers = await page.locator("#layers button").allTextContents();
    assert.ok(
      layers.some((text) => /^selection 1\d of 5$/u.test(text)),
      String(layers),
    );
    assert.ok((await exact(page, "figure-kept")) >= 1);
    await page.locator("#layers button", { hasText: "selection 1" }).click();
  }
  await close(page);
});

describe("what cannot be shown", () => {
  const said = async (name) => {
    const page = await open(name, { ready: false });
    await page.locator("#error").waitFor();
    const text = await page.locator("#error").textContent();
    assert.equal(await page.locator("#demo").isVisible(), false);
    await page.context().close();
    return text;
  };

  test("a damaged bundle", async () => {
    await cp(join(scratch, "text"), join(scratch, "damaged"), { recursive: true });
    await writeFile(join(scratch, "damaged/bundle/stage0.onnx"), "something else");
    assert.match(await said("damaged"), /'stage0\.onnx' was changed or damaged: sha256 is .*; copy the bundle again/u);
    await writeFile(join(scratch, "damaged/bundle/bundle.json"), "{");
    assert.match(await said("damaged"), /bundle\.json: /u);
    await writeFile(join(scratch, "damaged/demo.json"), '{"format": 1, "samples": [{"picture": "../secret"}]}');
    assert.match(await said("damaged"), /^demo\.json is not of format 1, expected what `adaptrt demo` writes/u);
  });

  test("a damaged dense model is left out, and that is said", async () => {
    await cp(join(scratch, "text"), join(scratch, "no_dense"), { recursive: true });
    await writeFile(join(scratch, "no_dense/bundle/dense.onnx"), "something else");
    const page = await open("no_dense");
    await page.waitForFunction(() => document.getElementById("message").textContent !== "");
    const said = await page.locator("#message").textContent();
    assert.match(said, /^No dense model beside it: .*'dense\.onnx' was changed or damaged/u);
    await page.waitForFunction(() => /whole model/u.test(document.getElementById("answers").textContent));
    await close(page);
  });

  test("a folder with the page alone", async () => {
    await cp(join(scratch, "text"), join(scratch, "empty"), { recursive: true });
    await rm(join(scratch, "empty/demo.json"));
    assert.match(
      await said("empty"),
      /^demo\.json cannot be read \(the server answered 404\); write the folder again/u,
    );
  });
});

test("on a phone nothing is wider than the page", async () => {
  for (const name of ["digits", "text"]) {
    const page = await open(name, { viewport: { width: 360, height: 740 } });
    const [whole, seen] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    assert.ok(whole <= seen, `${name}: ${whole} of ${seen} pixels`);
    await close(page);
  }
});
