/** Runs the dense model's own graph, to compare with. */

import * as onnxruntime from "onnxruntime-web/wasm";

import { type Onnxruntime, OnnxruntimeEngine, tensorOf } from "../../src/backends/onnxruntime.js";
import { BundleFiles } from "../../src/bundle/bundle_files.js";
import { UrlSource } from "../../src/bundle/bundle_source.js";
import { CacheStorageFiles } from "../../src/bundle/cache_storage.js";
import { BundleError } from "../../src/errors.js";
import { InputContract, type Tensors } from "../../src/inputs.js";
import type { Tensor } from "../../src/tensor.js";
import { BUNDLE, WASM } from "./places.js";
import { answerCalls } from "./worker_calls.js";

/** What the dense model said. */
export interface DenseAnswer {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly latencyMs: number;
}

interface Dense {
  readonly engine: OnnxruntimeEngine;
  readonly contract: InputContract;
  readonly names: readonly string[];
}

onnxruntime.env.wasm.wasmPaths = { wasm: WASM };
let dense: Dense | null = null;

/** Load it; false where the bundle has none. Its file is hashed, as the stages' are. */
async function open(): Promise<boolean> {
  const files = new BundleFiles(new UrlSource(BUNDLE), await CacheStorageFiles.open(), () => undefined, undefined);
  const { bundle } = await files.readBundle();
  const { file, sha256, external_data } = bundle.dense;
  if (file === null || sha256 === null) return false;
  const graph = await files.readGraph({ file, sha256, external_data }, null, true);
  if (graph === null) return false;
  const ort = onnxruntime as unknown as Onnxruntime;
  const engine = await OnnxruntimeEngine.create(ort, { file, ...graph, alone: true }, { provider: "wasm" });
  const names = bundle.outputs.map(({ name }) => name).filter((name) => engine.outputs.has(name));
  const known = new Set(bundle.inputs.map(({ name }) => name));
  if (names.length === 0 || ![...engine.inputs.keys()].every((name) => known.has(name))) {
    throw new BundleError(`${file} does not take the bundle's inputs or gives none of its outputs; export it again`);
  }
  dense = { engine, contract: new InputContract(bundle.inputs, bundle.axes), names };
  return true;
}

async function run(inputs: Tensors): Promise<DenseAnswer> {
  const { engine, contract, names } = dense!;
  const { feeds } = contract.check(inputs);
  const values = Object.fromEntries([...engine.inputs.keys()].map((name) => [name, engine.value(feeds[name]!)]));
  const start = performance.now();
  const answers = await engine.run(values, names);
  const latencyMs = performance.now() - start;
  return { outputs: Object.fromEntries(names.map((name) => [name, tensorOf(answers[name]!)])), latencyMs };
}

const handlers = { open: (_: null) => open(), run };
export type DenseHandlers = typeof handlers;
answerCalls(handlers);
