/** What a page and its worker say to each other. */

import type { KnobValues, Bundle } from "../bundle/schema.js";
import type { BudgetFields } from "../control/budget.js";
import type { Profile } from "../device/profile.js";
import type { Tensors } from "../inputs.js";
import type { LoadProgress } from "../loading.js";
import type { Result } from "../result.js";

/** How the worker loads a bundle: what of `WorkerOptions` can be sent. */
export interface WorkerSettings {
  /** Absolute address of ONNX Runtime's module; left out, `onnxruntime-web/wasm` is imported by its name. */
  readonly onnxruntime?: string;
  /** Absolute address of the folder with ONNX Runtime's WebAssembly files; left out, the module's own. */
  readonly wasmPaths?: string;
  readonly provider?: string;
  readonly threads?: number;
  readonly dense?: boolean;
  /** Whether files are kept by their hashes in the browser's Cache Storage. */
  readonly cache?: boolean;
}

/** The model's own budget, and how often it was set: a controller starts anew each time. */
export interface ModelBudget {
  readonly fields: BudgetFields;
  readonly version: number;
}

/** What the page asks for. */
export type Request =
  | { readonly type: "load"; readonly address: string; readonly settings: WorkerSettings }
  | {
      readonly type: "run";
      readonly inputs: Tensors;
      readonly modelBudget: ModelBudget;
      readonly budget: BudgetFields | null;
      readonly knobs: KnobValues | null;
      readonly decisions: boolean;
      readonly deadlineMs: number | null;
    }
  | { readonly type: "profile"; readonly inputs: Tensors; readonly seconds: number | null }
  | { readonly type: "useProfile"; readonly profile: Profile }
  | { readonly type: "close" };

/** A loaded bundle. */
export interface Loaded {
  readonly bundle: Bundle;
  readonly engine: string;
  readonly answersByDense: boolean;
}

/** What the answer to each request is. */
export interface Answers {
  readonly load: Loaded;
  /** Budgets lose their methods on the way, and are made anew. */
  readonly run: Omit<Result, "budget"> & { readonly budget: BudgetFields | null };
  readonly profile: Profile;
  readonly useProfile: null;
  readonly close: null;
}

export type RequestMessage = Request & { readonly id: number };

/** What the worker says of a request. */
export type ReplyMessage =
  | { readonly id: number; readonly type: "answer"; readonly answer: unknown }
  | { readonly id: number; readonly type: "error"; readonly name: string; readonly message: string }
  | { readonly id: number; readonly type: "progress"; readonly progress: LoadProgress | number };
