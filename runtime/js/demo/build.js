/**
 * Builds the page into `demo/dist`: everything that it needs but a bundle, for any static server.
 *
 * `adaptrt demo` copies that folder and puts a bundle and samples beside it.
 */

import { cp, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const DEMO = dirname(fileURLToPath(import.meta.url));
const DIST = join(DEMO, "dist");
const SCRIPTS = ["page", "model_worker", "dense_worker", "input_worker"];
const WASM = "ort-wasm-simd-threaded.wasm";
/** What of other people's work is in the folder, and its licence; the package of ONNX Runtime comes without one. */
const PACKAGES = {
  "onnxruntime-web": "../../cpp/vendor/onnxruntime/LICENSE",
  "@huggingface/tokenizers": "../node_modules/@huggingface/tokenizers/LICENSE",
};

const folder = `${DIST}.partial`;
await rm(folder, { recursive: true, force: true });
await mkdir(join(folder, "onnxruntime"), { recursive: true });
await build({
  absWorkingDir: DEMO,
  entryPoints: [...SCRIPTS.map((name) => `src/${name}.ts`), "demo.css"],
  entryNames: "[name]",
  outdir: folder,
  chunkNames: "chunks/[name]-[hash]",
  bundle: true,
  splitting: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "inline",
  logLevel: "warning",
});
for (const name of ["index.html", "icon.svg"]) await cp(join(DEMO, name), join(folder, name));
const web = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
await cp(join(web, WASM), join(folder, "onnxruntime", WASM));
await writeFile(join(folder, "LICENSES.txt"), await licences());
await rm(DIST, { recursive: true, force: true });
await rename(folder, DIST);

/** This project's licence, and those of the packages. */
async function licences() {
  const parts = [`adaptrt\n\n${await readFile(join(DEMO, "../../../LICENSE"), "utf8")}`];
  for (const [name, licence] of Object.entries(PACKAGES)) {
    const { version } = JSON.parse(await readFile(join(DEMO, "../node_modules", name, "package.json"), "utf8"));
    parts.push(`${name} ${version}\n\n${await readFile(join(DEMO, licence), "utf8")}`);
  }
  return parts.join(`\n${"-".repeat(80)}\n\n`);
}
