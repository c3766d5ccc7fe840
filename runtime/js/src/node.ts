/** The package in node. */

import { fileURLToPath } from "node:url";

import type { Onnxruntime } from "./backends/onnxruntime.js";
import { type BundleSource, UrlSource } from "./bundle/bundle_source.js";
import { FolderSource } from "./bundle/folder_source.js";
import { BackendError, oneLine } from "./errors.js";
import { loadFrom, type LoadOptions } from "./loading.js";
import type { AdaptiveModel } from "./model.js";

export * from "./api.js";
export { FolderSource } from "./bundle/folder_source.js";

/**
 * Load a bundle.
 *
 * Everything is checked first: the schema, that no path and no reference to weights leaves the folder, and every file's
 * hash, on the very bytes that then run.
 *
 * @param place a folder, its address (`https:` or `file:`), or a source of files.
 * @throws BundleError the bundle is missing, damaged, or of another version, or its stages were mixed up.
 * @throws BackendError onnxruntime-node is missing, or refuses the model or a setting.
 */
export async function load(place: string | URL | BundleSource, options: LoadOptions = {}): Promise<AdaptiveModel> {
  const onnxruntime = (options.onnxruntime ?? (await imported())) as Onnxruntime;
  return loadFrom(await sourceOf(place), { onnxruntime, provider: "cpu" }, options);
}

async function sourceOf(place: string | URL | BundleSource): Promise<BundleSource> {
  if (typeof place === "object" && "read" in place) return place;
  const text = String(place);
  if (/^https?:/u.test(text)) return new UrlSource(text);
  return FolderSource.open(text.startsWith("file:") ? fileURLToPath(text) : text);
}

async function imported(): Promise<unknown> {
  try {
    const module = (await import("onnxruntime-node")) as { default?: unknown };
    return module.default ?? module;
  } catch (error) {
    throw new BackendError(
      `onnxruntime-node cannot be imported (${oneLine(error)}), expected it beside adaptrt; ` +
        "npm install onnxruntime-node",
    );
  }
}
