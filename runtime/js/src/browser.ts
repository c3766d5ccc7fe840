/** The package in browsers. */

import type { Onnxruntime } from "./backends/onnxruntime.js";
import { type BundleSource, UrlSource } from "./bundle/bundle_source.js";
import { CacheStorageFiles } from "./bundle/cache_storage.js";
import { loadFrom, type LoadOptions, type LoadProgress } from "./loading.js";
import type { AdaptiveModel } from "./model.js";
import { importOnnxruntime } from "./onnxruntime_web.js";
import type { WorkerSettings } from "./worker/protocol.js";
import { WorkerModel } from "./worker/worker_model.js";

export * from "./api.js";
export { CacheStorageFiles } from "./bundle/cache_storage.js";
export { WorkerModel } from "./worker/worker_model.js";

/**
 * Load a bundle on the thread that asks: the page stands still while a call runs. `loadInWorker` avoids that.
 *
 * Everything is checked first: the schema, that no path and no reference to weights leaves the folder, and every file's
 * hash, on the very bytes that then run. Files are kept by their hashes in Cache Storage unless `cache` is null.
 *
 * @param place the folder's address, or a source of files.
 * @throws BundleError the bundle is missing, damaged, or of another version, or its stages were mixed up.
 * @throws BackendError onnxruntime-web is missing, or refuses the model or a setting.
 */
export async function load(place: string | URL | BundleSource, options: LoadOptions = {}): Promise<AdaptiveModel> {
  const onnxruntime = (options.onnxruntime ?? (await importOnnxruntime())) as Onnxruntime;
  const source = typeof place === "object" && "read" in place ? place : new UrlSource(place, globalThis.location.href);
  const cache = options.cache === undefined ? await CacheStorageFiles.open() : options.cache;
  return loadFrom(source, { onnxruntime, provider: "wasm" }, { ...options, cache });
}

/** How a bundle is loaded in a worker. */
export interface WorkerOptions extends Omit<WorkerSettings, "onnxruntime" | "wasmPaths"> {
  /** Address of ONNX Runtime's module, relative to the page; left out, the worker imports `onnxruntime-web/wasm`. */
  readonly onnxruntime?: string | URL;
  /** Address of the folder with ONNX Runtime's WebAssembly files; left out, where its module lies. */
  readonly wasmPaths?: string | URL;
  /** A worker that calls `serve` of `adaptrt/worker`, for this model alone; left out, the package's own is started. */
  readonly worker?: Worker;
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Ends the loading. */
  readonly signal?: AbortSignal;
}

/**
 * Load a bundle in a worker: calls run there, and the page stays smooth. Checks and caching are those of `load`.
 *
 * @param address the folder's, relative to the page.
 * @throws BundleError as `load`.
 * @throws BackendError as `load`, or the worker cannot be started.
 */
export async function loadInWorker(address: string | URL, options: WorkerOptions = {}): Promise<WorkerModel> {
  const { onnxruntime, wasmPaths, worker, onProgress, signal, ...rest } = options;
  const absolute = (place: string | URL): string => new URL(place, globalThis.location.href).href;
  const settings: WorkerSettings = {
    ...rest,
    ...(onnxruntime === undefined ? {} : { onnxruntime: absolute(onnxruntime) }),
    ...(wasmPaths === undefined ? {} : { wasmPaths: absolute(wasmPaths) }),
  };
  return WorkerModel.load(
    worker ?? new Worker(new URL("./worker/entry.js", import.meta.url), { type: "module" }),
    absolute(address),
    settings,
    { ...(onProgress === undefined ? {} : { onProgress }), ...(signal === undefined ? {} : { signal }) },
  );
}
