/** Loading a bundle: everything is checked before an engine sees it. */

import { type EngineSettings, engineVersion, type Onnxruntime, OnnxruntimeEngine } from "./backends/onnxruntime.js";
import { checkDense, checkInterfaces } from "./backends/stage_interface.js";
import { BundleFiles, type FileCache } from "./bundle/bundle_files.js";
import type { BundleSource } from "./bundle/bundle_source.js";
import { type Bundle, BUNDLE_FILE } from "./bundle/schema.js";
import { Engines } from "./engines.js";
import { BackendError } from "./errors.js";
import { shown } from "./message_text.js";
import { AdaptiveModel } from "./model.js";

/** How far loading is. */
export interface LoadProgress {
  /** What is being done: files are fetched and checked, engines made of them. */
  readonly phase: "files" | "engines";
  /** The file that this is about. */
  readonly file: string;
  /** Bytes of it that are there, and how many it has; null where the server does not say. */
  readonly loaded: number;
  readonly total: number | null;
  /** Whether it was kept from before. */
  readonly cached: boolean;
  /** Share of the whole that is done, never falling. */
  readonly share: number;
}

/** How a bundle is loaded, beside what the platform settles. */
export interface LoadOptions {
  /** The module `onnxruntime-node`, `onnxruntime-web` or `onnxruntime-web/wasm`; left out, it is imported. */
  readonly onnxruntime?: unknown;
  /** ONNX Runtime's execution provider; left out, `cpu` in node and `wasm` in browsers. */
  readonly provider?: string;
  /** That one operator may use; left out, 1 in browsers and ONNX Runtime's choice in node. */
  readonly threads?: number;
  /** Whether the dense model's graph is loaded where it answers full budgets; true unless told otherwise. */
  readonly dense?: boolean;
  /** Where files are kept by their hashes; null keeps none. */
  readonly cache?: FileCache | null;
  readonly onProgress?: (progress: LoadProgress) => void;
  /** Ends the loading. */
  readonly signal?: AbortSignal;
}

/** What a platform settles. */
export interface Platform {
  readonly onnxruntime: Onnxruntime;
  readonly provider: string;
}

/** Of the whole, reading files takes so much; making engines takes the rest. */
const FILES_SHARE = 0.8;
const MOST_THREADS = 1_024;

/**
 * Load a bundle.
 *
 * @throws BundleError the bundle is missing, damaged, or of another version, or its stages were mixed up.
 * @throws BackendError ONNX Runtime refuses the model or a setting.
 */
export async function loadFrom(source: BundleSource, platform: Platform, options: LoadOptions): Promise<AdaptiveModel> {
  const settings = checkedSettings(platform, options);
  const progress = new ProgressOfFiles(options.onProgress);
  const files = new BundleFiles(source, options.cache ?? null, progress.onFile, options.signal);
  const { bundle, hash } = await files.readBundle();
  const wantsDense = (bundle.dense.unsplit || bundle.dense.answers_full) && options.dense !== false;
  progress.expect(filesOf(bundle, wantsDense));
  const graphs = await readGraphs(bundle, files, wantsDense);
  const engines: OnnxruntimeEngine[] = [];
  let dense: OnnxruntimeEngine | null = null;
  try {
    for (const [index, { file, graph }] of graphs.stages.entries()) {
      options.signal?.throwIfAborted();
      progress.onEngine(file, index / (graphs.stages.length + 1));
      const program = { file, ...graph, alone: bundle.stages.length === 1 };
      engines.push(await OnnxruntimeEngine.create(platform.onnxruntime, program, settings));
    }
    checkInterfaces(bundle, engines, files.place);
    if (graphs.dense !== null) {
      const file = bundle.dense.file!;
      progress.onEngine(file, graphs.stages.length / (graphs.stages.length + 1));
      dense = await OnnxruntimeEngine.create(platform.onnxruntime, { file, ...graphs.dense, alone: false }, settings);
      checkDense(bundle, dense, `${files.place}/${file}`);
    }
    progress.onEngine(BUNDLE_FILE, 1);
    const key = {
      bundle: hash,
      engine: engineVersion(platform.onnxruntime, settings),
      processors: globalThis.navigator?.hardwareConcurrency ?? 1,
      threads: settings.threads ?? null,
    };
    return new AdaptiveModel(bundle, new Engines(bundle, engines, dense), key);
  } catch (error) {
    for (const engine of [...engines, ...(dense === null ? [] : [dense])]) await engine.close().catch(() => undefined);
    throw error;
  }
}

function checkedSettings(platform: Platform, { provider, threads }: LoadOptions): EngineSettings {
  if (threads !== undefined && !(Number.isInteger(threads) && 1 <= threads && threads <= MOST_THREADS)) {
    throw new BackendError(
      `got threads=${shown(threads)}, expected a whole number from 1 to ${MOST_THREADS}; pass that`,
    );
  }
  return { provider: provider ?? platform.provider, threads };
}

type Graph = NonNullable<Awaited<ReturnType<BundleFiles["readGraph"]>>>;

/** Every graph of the bundle, and whether the files that make inputs are as they were. */
async function readGraphs(
  bundle: Bundle,
  files: BundleFiles,
  wantsDense: boolean,
): Promise<{ stages: { file: string; graph: Graph }[]; dense: Graph | null }> {
  const several = bundle.stages.length > 1;
  const stages = bundle.stages.map(async (stage, number) => {
    const graph = await files.readGraph(stage, several ? `${number}/${bundle.stages.length}` : null);
    return { file: stage.file, graph: graph! };
  });
  const { file, sha256, external_data } = bundle.dense;
  const dense =
    wantsDense && file !== null && sha256 !== null
      ? files.readGraph({ file, sha256, external_data }, null, true) // a device may have left it out
      : Promise.resolve(null);
  const preprocessing = bundle.files.map((entry) => files.readPreprocessing(entry));
  const all = [Promise.all(stages), dense, Promise.all(preprocessing)] as const;
  const [graphs, one] = await Promise.all(all);
  return { stages: graphs, dense: one };
}

function filesOf(bundle: Bundle, wantsDense: boolean): number {
  const graphs = [...bundle.stages, ...(wantsDense ? [bundle.dense] : [])];
  return bundle.files.length + graphs.reduce((count, graph) => count + 1 + graph.external_data.length, 0);
}

/** Turns what is heard of single files into progress of the whole. */
class ProgressOfFiles {
  private readonly done = new Map<string, number>();
  private files = Infinity;
  private share = 0;

  constructor(private readonly tell: LoadOptions["onProgress"]) {}

  /** There are so many files beside `bundle.json`. */
  expect(files: number): void {
    this.files = files;
  }

  readonly onFile = (file: string, loaded: number, total: number | null, cached: boolean): void => {
    if (this.tell === undefined) return;
    if (file !== BUNDLE_FILE) this.done.set(file, total === null || total === 0 ? 0 : Math.min(loaded / total, 1));
    const share = (FILES_SHARE * [...this.done.values()].reduce((sum, one) => sum + one, 0)) / this.files;
    this.share = Math.max(this.share, share);
    this.tell({ phase: "files", file, loaded, total, cached, share: this.share });
  };

  onEngine(file: string, share: number): void {
    this.share = Math.max(this.share, FILES_SHARE + (1 - FILES_SHARE) * share);
    this.tell?.({ phase: "engines", file, loaded: 0, total: null, cached: false, share: this.share });
  }
}
