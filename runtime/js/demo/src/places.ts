/** Where the files of the folder lie. All scripts of the page lie directly in it, or in `chunks`. */

const script = new URL(import.meta.url);
const folder = new URL(script.pathname.includes("/chunks/") ? "../" : "./", script);

/** Of ONNX Runtime's WebAssembly. */
export const WASM = new URL("onnxruntime/ort-wasm-simd-threaded.wasm", folder).href;
/** Of the bundle. */
export const BUNDLE = new URL("bundle/", folder).href;
/** Of what there is to choose from. */
export const MANIFEST = new URL("demo.json", folder).href;

/** Start a worker of this page. */
export function startWorker(name: "model" | "dense" | "input"): Worker {
  return new Worker(new URL(`${name}_worker.js`, folder), { type: "module", name });
}

/** The address of a sample. */
export function sampleAddress(path: string): string {
  return new URL(path, folder).href;
}
