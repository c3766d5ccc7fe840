/** The keys of `bundle.json`, as `docs/bundle_format.md` describes them. Their values' limits are in `validation`. */

import {
  any,
  bigInt,
  bool,
  type Decoded,
  dictionary,
  float,
  int,
  list,
  nullable,
  optional,
  record,
  required,
  text,
  union,
} from "./json_types.js";

export const FORMAT_VERSION = 2;
export const BUNDLE_FILE = "bundle.json";
export const MACS_OUTPUT = "macs_fraction";
export const CONFIDENCE_OUTPUT = "confidence";
/** The outputs that tell a decision, by its kind. */
export const DECISION_ROLES: Readonly<Record<string, readonly string[]>> = {
  learners: ["runs"],
  selection: ["index", "count"],
};
export const PRICE_KNOB = "price";
export const TOKEN_PRICE_KNOB = "token_price";
/** The one knob that no graph has: the host compares the confidences with it. It alone may be infinite. */
export const THRESHOLDS_KNOB = "exit_thresholds";
export const CRITERIA = ["max_softmax", "entropy", "certainty", "patience", "own"] as const;
/** How the setting of a point begins that is run as it was measured, never interpolated. */
export const SNAPPING_SETTING = "sample";
/** Key in the `metadata_props` of a stage's ONNX file; its value is `<i>/<n>`, counted from 0. */
export const STAGE_METADATA = "adaptrt.stage";
/** The role, among the bundle's `files`, of what a tokenizer is made of. */
export const TOKENIZER_ROLE = "tokenizer";

const shape = list(union(int, text));
const knobValue = union(float, list(float));
const knobValues = dictionary(knobValue);

const imagePreprocessing = record({
  channels: required(int),
  height: required(int),
  width: required(int),
  scale: optional(float, 1 / 255),
  mean: optional(list(float), [0]),
  std: optional(list(float), [1]),
  background: optional(list(int), [0]),
  resize: optional(text, "stretch"),
  size: optional(list(int), []),
  resample: optional(text, "bilinear"),
  order: optional(text, "rgb"),
});

const textPreprocessing = record({
  inputs: required(dictionary(text)),
  longest: required(int),
  padding_id: optional(int, 0),
  padding_token: optional(nullable(text), null),
  padding_type: optional(int, 0),
  padding_side: optional(text, "right"),
  truncation: optional(text, "longest_first"),
  truncation_side: optional(text, "right"),
  special_tokens: optional(bool, true),
  lower_case: optional(bool, false),
});

const audioPreprocessing = record({
  input: required(text),
  kind: required(text),
  sample_rate: optional(int, 16_000),
  mask: optional(nullable(text), null),
  padding_value: optional(float, 0),
  normalize: optional(bool, false),
  mels: optional(int, 80),
  window: optional(int, 400),
  hop: optional(int, 160),
  samples: optional(int, 480_000),
});

const axis = record({ shortest: optional(int, 1), longest: optional(nullable(int), null) });

const tensorSpec = record({
  name: required(text),
  dtype: required(text),
  shape: required(shape),
  preprocessing: optional(nullable(imagePreprocessing), null),
  minimum: optional(nullable(bigInt), null),
  maximum: optional(nullable(bigInt), null),
});

const dataFile = record({ file: required(text), sha256: required(text) });
const preprocessingFile = record({ file: required(text), sha256: required(text), role: required(text) });
const carry = record({ name: required(text), source: required(text), dtype: required(text), shape: required(shape) });
const tokenSet = record({
  size: optional(nullable(union(int, text)), null),
  valid: optional(nullable(text), null),
});

const decisionSpec = record({
  kind: required(text),
  number: required(int),
  outputs: required(dictionary(text)),
  of: optional(text, "tokens"),
  flat: optional(bool, true),
  nested: optional(bool, true),
});

const stage = record({
  file: required(text),
  sha256: required(text),
  exit: optional(nullable(text), null),
  external_data: optional(list(dataFile), []),
  carry: optional(list(carry), []),
  decisions: optional(list(decisionSpec), []),
});

const knob = record({
  name: required(text),
  dtype: required(text),
  shape: required(list(int)),
  minimum: required(float),
  maximum: required(float),
  default: required(float),
});

const dense = record({
  macs: required(bigInt),
  parameters: required(bigInt),
  quality: optional(nullable(float), null),
  file: optional(nullable(text), null),
  sha256: optional(nullable(text), null),
  external_data: optional(list(dataFile), []),
  unsplit: optional(bool, false),
  answers_full: optional(bool, false),
});

const curvePoint = record({
  knobs: required(knobValues),
  macs_fraction: required(float),
  quality: required(nullable(float)),
  frontier: required(bool),
  calibration_quality: optional(nullable(float), null),
  calibration_macs_fraction: optional(nullable(float), null),
  setting: optional(text, ""),
  hard: optional(bool, false),
  calibration_error: optional(nullable(float), null),
});

const budgetPoint = record({
  work: required(float),
  quality: required(nullable(float)),
  knobs: required(knobValues),
});

const budgetRow = record({
  fraction: required(float),
  work: required(float),
  quality: required(nullable(float)),
  knobs: required(knobValues),
  to: optional(nullable(budgetPoint), null),
});

const budgetTable = record({
  soft: required(list(budgetRow)),
  hard: required(list(budgetRow)),
  full: required(budgetPoint),
});

/** `bundle.json`. */
export const bundleType = record({
  format_version: required(int),
  name: required(text),
  producer: required(text),
  inputs: required(list(tensorSpec)),
  outputs: required(list(tensorSpec)),
  stages: required(list(stage)),
  knobs: required(list(knob)),
  dense: required(dense),
  curve: optional(list(curvePoint), []),
  quality_metric: optional(nullable(text), null),
  data: optional(dictionary(any), {}),
  ops: optional(dictionary(int), {}),
  exit_criterion: optional(nullable(text), null),
  tokens: optional(dictionary(tokenSet), {}),
  axes: optional(dictionary(axis), {}),
  task: optional(nullable(text), null),
  files: optional(list(preprocessingFile), []),
  budget_table: optional(nullable(budgetTable), null),
  text: optional(nullable(textPreprocessing), null),
  audio: optional(nullable(audioPreprocessing), null),
  class_names: optional(list(text), []),
});

/** A number fills the knob's shape; a list has one number for each of its elements, in row-major order. */
export type KnobValue = number | readonly number[];
export type KnobValues = Readonly<Record<string, KnobValue>>;
export type Axis = Decoded<typeof axis>;
export type TensorSpec = Decoded<typeof tensorSpec>;
export type Carry = Decoded<typeof carry>;
export type TokenSet = Decoded<typeof tokenSet>;
export type DecisionSpec = Decoded<typeof decisionSpec>;
export type DataFile = Decoded<typeof dataFile>;
export type PreprocessingFile = Decoded<typeof preprocessingFile>;
export type Stage = Decoded<typeof stage>;
export type Knob = Decoded<typeof knob>;
export type Dense = Decoded<typeof dense>;
export type CurvePoint = Decoded<typeof curvePoint>;
export type BudgetPoint = Decoded<typeof budgetPoint>;
export type BudgetRow = Decoded<typeof budgetRow>;
export type BudgetTable = Decoded<typeof budgetTable>;
export type ImagePreprocessing = Decoded<typeof imagePreprocessing>;
export type TextPreprocessing = Decoded<typeof textPreprocessing>;
export type AudioPreprocessing = Decoded<typeof audioPreprocessing>;
export type Bundle = Decoded<typeof bundleType>;

/** The axis that counts samples; null where their number is fixed. */
export function batchAxis(bundle: Bundle): string | null {
  const size = bundle.outputs.find((spec) => spec.name === MACS_OUTPUT)?.shape[0];
  return typeof size === "string" ? size : null;
}
