/** The worker's side: runs one model for the page that made it. */

import type { Onnxruntime } from "../backends/onnxruntime.js";
import { UrlSource } from "../bundle/bundle_source.js";
import { CacheStorageFiles } from "../bundle/cache_storage.js";
import { Budget } from "../control/budget.js";
import { AdaptrtError, BackendError, oneLine } from "../errors.js";
import { loadFrom } from "../loading.js";
import type { AdaptiveModel } from "../model.js";
import { importOnnxruntime } from "../onnxruntime_web.js";
import type { Tensor } from "../tensor.js";
import type { Answers, ReplyMessage, Request, RequestMessage, WorkerSettings } from "./protocol.js";

/** What is used of a worker's global object. */
interface Scope {
  postMessage(message: unknown, transfer?: Transferable[]): void;
  addEventListener(type: "message", listener: (event: MessageEvent<RequestMessage>) => void): void;
}

/**
 * Answer the page's requests. Called once, in a worker of the page's own where a bundler has to find ONNX Runtime.
 *
 * @param onnxruntime the module `onnxruntime-web` or `onnxruntime-web/wasm`; left out, the page says where it is.
 */
export function serve(onnxruntime?: unknown): void {
  const scope = globalThis as unknown as Scope;
  const server = new Server(onnxruntime);
  scope.addEventListener("message", ({ data }) => {
    const tell = (reply: ReplyMessage, transfer: Transferable[] = []): void => scope.postMessage(reply, transfer);
    void server
      .answer(data, (progress) => tell({ id: data.id, type: "progress", progress }))
      .then(
        (answer) => tell({ id: data.id, type: "answer", answer }, buffersOf(data.type, answer)),
        (error: unknown) => {
          const name = error instanceof AdaptrtError ? error.name : "Error";
          tell({
            id: data.id,
            type: "error",
            name,
            message: error instanceof AdaptrtError ? error.message : oneLine(error),
          });
        },
      );
  });
}

type Progress = (progress: Extract<ReplyMessage, { type: "progress" }>["progress"]) => void;

class Server {
  private model: AdaptiveModel | null = null;
  private budgetVersion = 0;

  constructor(private readonly onnxruntime: unknown) {}

  async answer(request: Request, progress: Progress): Promise<Answers[Request["type"]]> {
    switch (request.type) {
      case "load":
        return this.load(request.address, request.settings, progress);
      case "run":
        return this.run(request);
      case "profile": {
        const { inputs, seconds } = request;
        return this.loaded().profile(inputs, { onProgress: progress, ...(seconds === null ? {} : { seconds }) });
      }
      case "useProfile":
        await this.loaded().useProfile(request.profile);
        return null;
      case "close":
        await this.model?.close();
        return null;
    }
  }

  private loaded(): AdaptiveModel {
    if (this.model === null)
      throw new BackendError("got a call before the bundle was loaded, expected it after; await load");
    return this.model;
  }

  private async load(address: string, settings: WorkerSettings, onProgress: Progress): Promise<Answers["load"]> {
    const { onnxruntime: place, wasmPaths, cache, ...rest } = settings;
    const onnxruntime = (this.onnxruntime ?? (await importOnnxruntime(place))) as Onnxruntime;
    if (wasmPaths !== undefined) onnxruntime.env.wasm.wasmPaths = wasmPaths;
    const files = cache === false ? null : await CacheStorageFiles.open();
    const source = new UrlSource(address);
    this.model = await loadFrom(source, { onnxruntime, provider: "wasm" }, { ...rest, cache: files, onProgress });
    const { bundle, engine, answersByDense } = this.model;
    return { bundle, engine, answersByDense };
  }

  private async run(request: Extract<Request, { type: "run" }>): Promise<Answers["run"]> {
    const model = this.loaded();
    const { modelBudget, budget, knobs, decisions, deadlineMs } = request;
    if (modelBudget.version !== this.budgetVersion) {
      model.budget = Budget.of(modelBudget.fields);
      this.budgetVersion = modelBudget.version;
    }
    return model.run(request.inputs, {
      decisions,
      ...(budget === null ? {} : { budget: Budget.of(budget) }),
      ...(knobs === null ? {} : { knobs }),
      ...(deadlineMs === null ? {} : { deadlineMs }),
    });
  }
}

/** What a run's answer need not copy: nobody here uses it any more. */
function buffersOf(type: Request["type"], answer: unknown): Transferable[] {
  if (type !== "run") return [];
  const { outputs } = answer as { readonly outputs: Readonly<Record<string, Tensor>> };
  return [...new Set(Object.values(outputs).map(({ data }) => data.buffer as ArrayBuffer))];
}
