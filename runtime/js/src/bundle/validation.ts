/** What the values in a bundle must satisfy beyond their types. Reads no file. */

import { float, isPrintable, listed, quoted } from "../message_text.js";
import { type Dtype, dtypeRecord, product } from "../tensor.js";
import { checkCurve, MAX_CURVE_POINTS } from "./curve_validation.js";
import { checkDecisions } from "./decision_validation.js";
import { characters, expect, expectFinite, expectText, expectUnique, MAX_TEXT, short } from "./expectations.js";
import { checkSources } from "./preprocessing_validation.js";
import {
  type Bundle,
  BUNDLE_FILE,
  type DataFile,
  type Dense,
  type Knob,
  MACS_OUTPUT,
  PRICE_KNOB,
  THRESHOLDS_KNOB,
  TOKEN_PRICE_KNOB,
} from "./schema.js";
import { checkStages } from "./stage_validation.js";
import { checkBudgetTable } from "./table_validation.js";
import { checkAxes, checkDtype, checkInput, checkTensor, described, MAX_RANK, MAX_SIZE } from "./tensor_validation.js";

const MAX_ENTRIES = 1_000;
const MAX_PREPROCESSING_FILES = 100;
const MAX_CLASSES = 100_000;
const MAX_KNOB_VALUES = 65_536;
/** Windows forbids them, and ONNX Runtime reads an asterisk and a slash as its own marker for an address in memory. */
const NOT_IN_PATHS = /[\\:*?"<>|]/u;
const SHA256 = /^[0-9a-f]{64}$/u;

/**
 * Check everything about a bundle that needs no file.
 *
 * @throws Invalid names the first value that was wrong, what was expected and what to do.
 */
export function checkBundle(bundle: Bundle): void {
  expectText("name", bundle.name);
  expectText("producer", bundle.producer);
  if (bundle.quality_metric !== null) expectText("quality_metric", bundle.quality_metric);
  if (bundle.task !== null) expectText("task", bundle.task);
  checkCounts(bundle);
  for (const spec of bundle.inputs) checkInput(`inputs ${short(spec.name)}`, spec);
  for (const spec of bundle.outputs) checkTensor(`outputs ${short(spec.name)}`, spec);
  for (const knob of bundle.knobs) checkKnob(`knobs ${short(knob.name)}`, knob);
  expectUnique(
    "inputs and knobs",
    [...bundle.inputs, ...bundle.knobs].map((one) => one.name),
  );
  expectUnique(
    "outputs",
    bundle.outputs.map((spec) => spec.name),
  );
  checkMacsOutput(bundle);
  for (const [number, stage] of bundle.stages.entries()) {
    checkFile(`stages[${number}]`, stage.file, stage.sha256, stage.external_data);
  }
  expectUnique(
    "stages",
    bundle.stages.map((stage) => stage.file),
  );
  checkDense(bundle);
  checkPreprocessingFiles(bundle);
  checkClassNames(bundle);
  checkStages(bundle);
  checkDecisions(bundle);
  checkAxes(bundle);
  checkSources(bundle);
  checkCurve(bundle);
  checkBudgetTable(bundle);
  for (const [op, learners] of Object.entries(bundle.ops)) {
    expectText("ops", op);
    const fine = 1 <= learners && learners <= MAX_SIZE;
    expect(
      fine,
      () => `ops ${quoted(op)}: ${learners} learners`,
      () => `1 to ${MAX_SIZE}`,
    );
  }
}

function checkCounts(bundle: Bundle): void {
  const counts = [
    ["inputs", bundle.inputs.length, 1, MAX_ENTRIES],
    ["outputs", bundle.outputs.length, 1, MAX_ENTRIES],
    ["stages", bundle.stages.length, 1, MAX_ENTRIES],
    ["knobs", bundle.knobs.length, 0, MAX_ENTRIES],
    ["curve", bundle.curve.length, 0, MAX_CURVE_POINTS],
    ["ops", Object.keys(bundle.ops).length, 0, MAX_ENTRIES],
    ["files", bundle.files.length, 0, MAX_PREPROCESSING_FILES],
    ["class_names", bundle.class_names.length, 0, MAX_CLASSES],
  ] as const;
  for (const [key, count, least, most] of counts) {
    expect(
      least <= count && count <= most,
      () => `${key}: ${count} entries`,
      () => `${least} to ${most}`,
    );
  }
}

function checkClassNames(bundle: Bundle): void {
  const { class_names: names } = bundle;
  for (const name of names) expectText("class_names", name);
  for (const spec of bundle.outputs) {
    const classes = spec.shape.at(-1);
    if (names.length > 0 && spec.name === "logits" && typeof classes === "number") {
      const wanted = (): string => `${classes}, as many as logits has classes, or none`;
      expect(names.length === classes, () => `class_names: ${names.length} names`, wanted);
    }
  }
}

/** Refuse a path that is not plainly below the bundle's folder on every operating system. */
export function checkRelativePath(where: string, path: string): void {
  const count = characters(path);
  const plain =
    count > 0 &&
    count <= MAX_TEXT &&
    isPrintable(path) &&
    !NOT_IN_PATHS.test(path) &&
    path.split("/").every((part) => part !== "" && part !== "." && part !== "..");
  expect(
    plain,
    () => `${where}: path ${short(path)}`,
    () => "a relative path inside the bundle's folder",
  );
}

function checkKnob(where: string, knob: Knob): void {
  expectText(where, knob.name);
  checkDtype(where, knob.dtype);
  expect(
    knob.shape.length <= MAX_RANK,
    () => `${where}: ${knob.shape.length} axes`,
    () => `at most ${MAX_RANK}`,
  );
  const sized = knob.shape.every((size) => size >= 1) && product(knob.shape) <= MAX_KNOB_VALUES;
  expect(
    sized,
    () => `${where}: shape ${listed(knob.shape)}`,
    () => `fixed sizes, at most ${MAX_KNOB_VALUES} values`,
  );
  if (knob.name === PRICE_KNOB || knob.name === TOKEN_PRICE_KNOB) {
    const fine = knob.dtype === "float32" && product(knob.shape) === 1;
    expect(
      fine,
      () => `${where}: ${described(knob.dtype, knob.shape)}`,
      () => "float32 [1]",
    );
  }
  const { kind, least, most } = dtypeRecord(knob.dtype as Dtype);
  const endless = knob.name === THRESHOLDS_KNOB;
  for (const value of [knob.minimum, knob.maximum, knob.default]) {
    const held = endless
      ? !Number.isFinite(value) || (least <= value && value <= most)
      : least <= value && value <= most;
    const wanted = (): string => `a number that ${knob.dtype} can hold`;
    expect(held && !Number.isNaN(value), () => `${where}: ${float(value)}`, wanted);
  }
  expect(
    knob.minimum <= knob.default && knob.default <= knob.maximum,
    () => `${where}: minimum ${float(knob.minimum)}, default ${float(knob.default)}, maximum ${float(knob.maximum)}`,
    () => "minimum <= default <= maximum",
  );
  const whole = kind === "f" || endless || Number.isInteger(knob.default);
  expect(
    whole,
    () => `${where}: default ${float(knob.default)}`,
    () => "a whole number",
  );
}

function checkMacsOutput(bundle: Bundle): void {
  const share = bundle.outputs.find((spec) => spec.name === MACS_OUTPUT);
  const names = (): string =>
    bundle.outputs
      .slice(0, 10)
      .map((spec) => quoted(spec.name))
      .join(", ");
  expect(
    share !== undefined,
    () => `outputs: ${names()}`,
    () => `'${MACS_OUTPUT}' among them`,
  );
  const fine = share.dtype === "float32" && share.shape.length === 1;
  const got = (): string => `outputs '${MACS_OUTPUT}': ${described(share.dtype, share.shape)}`;
  expect(fine, got, () => "float32 ['batch']");
}

function checkFile(where: string, file: string, sha256: string, externalData: readonly DataFile[]): void {
  checkRelativePath(where, file);
  expect(
    SHA256.test(sha256),
    () => `${where}: sha256 ${short(sha256)}`,
    () => "64 lowercase hexadecimal digits",
  );
  const count = externalData.length;
  expect(
    count <= MAX_ENTRIES,
    () => `${where}: ${count} data files`,
    () => `at most ${MAX_ENTRIES}`,
  );
  for (const data of externalData) checkFile(`${where} external_data`, data.file, data.sha256, []);
  expectUnique(
    `${where} external_data`,
    externalData.map((data) => data.file),
  );
}

function checkPreprocessingFiles(bundle: Bundle): void {
  for (const entry of bundle.files) {
    const where = `files ${short(entry.role)}`;
    expectText("files role", entry.role);
    checkFile(where, entry.file, entry.sha256, []);
    const flat = !entry.file.includes("/");
    expect(
      flat,
      () => `${where}: path ${short(entry.file)}`,
      () => "a file directly in the bundle's folder",
    );
  }
  expectUnique(
    "files' roles",
    bundle.files.map((entry) => entry.role),
  );
  const files = [...bundle.stages, ...bundle.files].map((one) => one.file);
  expectUnique("files and stages", [BUNDLE_FILE, ...files]);
}

function checkDense(bundle: Bundle): void {
  const dense: Dense = bundle.dense;
  for (const [key, value] of [
    ["macs", dense.macs],
    ["parameters", dense.parameters],
  ] as const) {
    expect(
      1 <= value && value < 2n ** 63n,
      () => `dense: ${key} ${value}`,
      () => "1 to 2^63 - 1",
    );
  }
  expectFinite("dense quality", [dense.quality]);
  if (dense.file !== null) checkFile("dense", dense.file, dense.sha256 ?? "", dense.external_data);
  expect(
    !dense.unsplit || (dense.file !== null && bundle.stages.length > 1),
    () => "dense: unsplit true",
    () => "false without a file of the dense model, and in a bundle of one stage",
  );
  const fine = !dense.answers_full || dense.file !== null;
  expect(
    fine,
    () => "dense: answers_full true",
    () => "false without a file of the dense model",
  );
}
