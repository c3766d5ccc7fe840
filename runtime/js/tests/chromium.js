/** A headless Chromium of the system. */

import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

import { chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/** Where the browser is; throws where there is none, as a test that was left out proves nothing. */
function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const folder of process.env.PATH.split(delimiter)) {
    for (const name of NAMES) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {
        // not there
      }
    }
  }
  throw new Error(
    `got none of ${NAMES.join(", ")} on PATH, expected a Chromium; apt-get install chromium, or set CHROMIUM`,
  );
}

/** Start it. */
export function launch() {
  return chromium.launch({ executablePath: executable(), headless: true });
}
