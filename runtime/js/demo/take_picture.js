/**
 * Takes a picture of a demo in headless Chromium, after the slider was moved a few times.
 *
 *     node demo/take_picture.js FOLDER PICTURE.png [WIDTH] [light|dark]
 */

import { launch } from "../tests/chromium.js";
import { serveFolders } from "../tests/static_server.js";

const [folder, picture, width = "1200", colorScheme = "light"] = process.argv.slice(2);
if (folder === undefined || picture === undefined) {
  console.error(
    "got no folder or picture, expected: node demo/take_picture.js FOLDER PICTURE.png [WIDTH] [light|dark]",
  );
  process.exit(2);
}
/** Places of the slider, from its lower end to its upper one, and how long it stays there. */
const MOVES = [1, 0.6, 0, 0.25];
const STAY_MS = 4000;

const server = await serveFolders({ "/demo": folder });
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: Number(width), height: 900 }, colorScheme });
  await page.goto(`${server.address}/demo/index.html`);
  await page.waitForSelector("html[data-ready]", { timeout: 120_000 });
  const samples = page.locator("#samples button");
  if ((await samples.count()) > 3) await samples.nth(3).click();
  for (const place of MOVES) {
    await page.locator("#budget").evaluate((slider, place) => {
      slider.value = String(Number(slider.min) + place * (Number(slider.max) - Number(slider.min)));
      slider.dispatchEvent(new Event("input"));
    }, place);
    await page.waitForTimeout(STAY_MS);
  }
  await page.screenshot({ path: picture, fullPage: true });
} finally {
  await browser.close();
  server.close();
}
