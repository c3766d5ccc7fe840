/** The kit on this machine's disk. */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
export const KIT = `${ROOT}tests/conformance/kit/`;

export const kit = {
  async bytes(path) {
    return new Uint8Array(await readFile(KIT + path));
  },
  async json(path) {
    return JSON.parse(await readFile(KIT + path, "utf8"));
  },
};

/** The folder of a bundle, by its path in the kit. */
export function folder(bundle) {
  return KIT + bundle;
}
