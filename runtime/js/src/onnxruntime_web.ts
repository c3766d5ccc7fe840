/** Finding ONNX Runtime for browsers. */

import { BackendError, oneLine } from "./errors.js";

/**
 * The module `onnxruntime-web/wasm`, or the one at an address.
 *
 * @throws BackendError it cannot be imported.
 */
export async function importOnnxruntime(address?: string): Promise<unknown> {
  try {
    if (address !== undefined) return await import(/* @vite-ignore */ /* webpackIgnore: true */ address);
    return await import("onnxruntime-web/wasm");
  } catch (error) {
    const what = address ?? "onnxruntime-web/wasm";
    throw new BackendError(
      `${what} cannot be imported (${oneLine(error)}), expected it beside adaptrt; ` +
        "npm install onnxruntime-web, or pass {onnxruntime: address of ort.wasm.min.mjs}",
    );
  }
}
