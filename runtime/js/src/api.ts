/** What both platforms offer. */

export type { Onnxruntime } from "./backends/onnxruntime.js";
export type { FileCache } from "./bundle/bundle_files.js";
export { type BundleSource, type ReadOptions, UrlSource } from "./bundle/bundle_source.js";
export type * from "./bundle/schema.js";
export { Budget, type BudgetFields } from "./control/budget.js";
export { BUDGET_KINDS } from "./control/budget_kinds.js";
export { type Answer, lookUp } from "./control/budget_table.js";
export { type Choice, LatencyController } from "./control/controller.js";
export { ResponseCurve } from "./control/response_curve.js";
export type { Decisions, TokenDecisions } from "./decisions.js";
export type { Profile, ProfileKey, ProfilePoint } from "./device/profile.js";
export * from "./errors.js";
export type { Tensors } from "./inputs.js";
export type { LoadOptions, LoadProgress } from "./loading.js";
export { AdaptiveModel, type ProfileOptions, type RunOptions } from "./model.js";
export type { OperatingPoint } from "./plan.js";
export type { Result } from "./result.js";
export type { Dtype, Tensor, TensorLike, TypedArray } from "./tensor.js";
