/** A bundle in a folder of this machine. In node alone. */

import { readFile, realpath, stat } from "node:fs/promises";
import { resolve, sep } from "node:path";

import { BundleError, oneLine } from "../errors.js";
import { quoted } from "../message_text.js";
import { type BundleSource, type ReadOptions, tooLarge } from "./bundle_source.js";
import { AGAIN } from "./expectations.js";
import { BUNDLE_FILE } from "./schema.js";

/** A bundle in a folder; no link leads out of it. */
export class FolderSource implements BundleSource {
  private constructor(readonly place: string) {}

  /**
   * Open a folder.
   *
   * @throws BundleError it is no folder, or holds no `bundle.json`.
   */
  static async open(path: string): Promise<FolderSource> {
    const expected = "expected a bundle, as `adaptrt export` writes it";
    const root = await realpath(path).catch(() => null);
    if (root === null) throw new BundleError(`no folder ${quoted(path)}; ${expected}`);
    if (!(await stat(root)).isDirectory()) {
      throw new BundleError(`${quoted(path)} is not a folder; give the folder that holds ${BUNDLE_FILE}`);
    }
    const there = await stat(resolve(root, BUNDLE_FILE)).catch(() => null);
    if (there === null) throw new BundleError(`no ${BUNDLE_FILE} in ${quoted(path)}; ${expected}`);
    return new FolderSource(root);
  }

  async read(path: string, { limit, onBytes, signal }: ReadOptions): Promise<Uint8Array | null> {
    const file = await realpath(resolve(this.place, path)).catch(() => null);
    if (file === null) return null;
    if (!file.startsWith(this.place.endsWith(sep) ? this.place : this.place + sep)) {
      throw new BundleError(
        `${this.place}: ${quoted(path)} is a link that leaves the folder, expected a file inside it; ` +
          "copy the bundle with its links resolved (cp -rL)",
      );
    }
    try {
      const found = await stat(file);
      if (!found.isFile()) {
        throw new BundleError(
          `${this.place}: ${quoted(path)} is not a regular file; copy the whole folder or ${AGAIN}`,
        );
      }
      if (found.size > limit) throw tooLarge(this.place, path, found.size, limit);
      const bytes = await readFile(file, signal === undefined ? {} : { signal });
      onBytes?.(bytes.length, bytes.length);
      return new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length);
    } catch (error) {
      if (error instanceof BundleError || signal?.aborted === true) throw error;
      throw new BundleError(`${file}: cannot be read (${oneLine(error)}); check its permissions`);
    }
  }
}
