/** What the stages of a bundle must satisfy among each other, but for their decisions. */

import { float, listed, quoted } from "../message_text.js";
import { expect, expectText, expectUnique, short } from "./expectations.js";
import {
  batchAxis,
  type Bundle,
  type Carry,
  CONFIDENCE_OUTPUT,
  CRITERIA,
  type Knob,
  MACS_OUTPUT,
  THRESHOLDS_KNOB,
} from "./schema.js";
import { checkArray, described, namedAxes } from "./tensor_validation.js";

const MAX_CARRIED = 1_000;
const THRESHOLDS = `knobs ${quoted(THRESHOLDS_KNOB)}`;

/** Check what passes between the stages, who may leave, and what is told about it. */
export function checkStages(bundle: Bundle): void {
  const several = bundle.stages.length > 1;
  const thresholds = bundle.knobs.find((knob) => knob.name === THRESHOLDS_KNOB);
  if (several) {
    checkExits(bundle, thresholds);
  } else {
    const { exit_criterion: criterion } = bundle;
    expect(
      criterion === null,
      () => `exit_criterion: ${quoted(criterion ?? "")} with one stage`,
      () => "None",
    );
    expect(
      thresholds === undefined,
      () => `${THRESHOLDS} with one stage`,
      () => "none of that name",
    );
  }
  for (const [number, stage] of bundle.stages.entries()) {
    const where = `stages[${number}]`;
    const count = stage.carry.length;
    if (stage.exit !== null) expectText(`${where} exit`, stage.exit);
    if (number === 0)
      expect(
        count === 0,
        () => `${where}: ${count} carried tensors`,
        () => "none in the first stage",
      );
    else
      expect(
        1 <= count && count <= MAX_CARRIED,
        () => `${where}: ${count} carried`,
        () => `1 to ${MAX_CARRIED}`,
      );
  }
  const batch = batchAxis(bundle);
  if (several || bundle.stages.some((stage) => stage.decisions.length > 0)) checkBatch(bundle, batch);
  if (several) checkOutputs(bundle, batch);
  checkCarried(bundle, batch);
}

function checkCarried(bundle: Bundle, batch: string | null): void {
  const names = [...bundle.inputs, ...bundle.knobs].map((one) => one.name);
  const masks = new Set(Object.values(bundle.tokens).map((tokens) => tokens.valid));
  for (const [number, stage] of bundle.stages.entries()) {
    for (const carry of stage.carry) {
      const where = `stages[${number}] carry ${short(carry.name)}`;
      checkCarry(where, carry, batch);
      if (masks.has(carry.name)) {
        const fine = carry.dtype === "bool" && carry.shape.length === 2;
        const wanted = (): string => `bool [${batch === null ? "None" : quoted(batch)}, 'tokens'], a mask of tokens`;
        expect(fine, () => `${where}: ${described(carry.dtype, carry.shape)}`, wanted);
      }
      const source = bundle.inputs.find((spec) => spec.name === carry.source);
      if (source !== undefined) {
        expect(
          carry.dtype === source.dtype && listed(carry.shape) === listed(source.shape),
          () => `${where}: ${described(carry.dtype, carry.shape)} of the input ${short(carry.source)}`,
          () => `${described(source.dtype, source.shape)} as of that input`,
        );
      }
    }
    expectUnique(`stages[${number}] inputs, knobs and carry`, [...names, ...stage.carry.map((carry) => carry.name)]);
  }
}

function checkExits(bundle: Bundle, thresholds: Knob | undefined): void {
  const { exit_criterion: criterion, stages } = bundle;
  const exits = stages.length - 1;
  expect(
    criterion !== null && (CRITERIA as readonly string[]).includes(criterion),
    () => `exit_criterion: ${criterion === null ? "None" : short(criterion)} with ${stages.length} stages`,
    () => `one of ${CRITERIA.join(", ")}`,
  );
  for (const [number, stage] of stages.entries()) {
    const wanted = (): string => "the name of its head, as there are several stages";
    expect(Boolean(stage.exit), () => `stages[${number}] exit: no name`, wanted);
  }
  expectUnique(
    "stages' exits",
    stages.map((stage) => stage.exit ?? ""),
  );
  const fine = thresholds?.dtype === "float32" && thresholds.shape.length === 1 && thresholds.shape[0] === exits;
  const got = (): string => (thresholds === undefined ? "none" : described(thresholds.dtype, thresholds.shape));
  expect(
    fine,
    () => `${THRESHOLDS}: ${got()} with ${stages.length} stages`,
    () => `float32 [${exits}]`,
  );
  expect(
    thresholds?.default === Infinity && thresholds.maximum === Infinity,
    () => `${THRESHOLDS}: default ${float(thresholds!.default)}, maximum ${float(thresholds!.maximum)}`,
    () => "infinity (null in JSON), at which no sample leaves",
  );
}

function checkCarry(where: string, carry: Carry, batch: string | null): void {
  expectText(where, carry.name);
  expectText(`${where} source`, carry.source);
  checkArray(where, carry.dtype, carry.shape);
  const fine = carry.shape.length > 0 && carry.shape[0] === batch && !carry.shape.slice(1).includes(batch);
  const wanted = (): string => `${batch === null ? "None" : quoted(batch)} as its first axis and no other`;
  expect(fine, () => `${where}: shape ${listed(carry.shape)}`, wanted);
}

/** Where samples part ways or are told about one by one, they must lie along one first axis. */
function checkBatch(bundle: Bundle, batch: string | null): asserts batch is string {
  const named = batch ?? "";
  expect(
    batch !== null,
    () => `outputs '${MACS_OUTPUT}': a fixed number of samples`,
    () => "a named batch axis",
  );
  for (const spec of bundle.inputs) {
    expect(
      !spec.shape.slice(1).includes(named),
      () => `inputs ${quoted(spec.name)}: shape ${listed(spec.shape)}`,
      () => `${quoted(named)} as its first axis, or not at all`,
    );
  }
  const batched = bundle.inputs.some((spec) => spec.shape[0] === named);
  const wanted = (): string => `one whose first axis it is, as of '${MACS_OUTPUT}'`;
  expect(batched, () => `inputs: none has the axis ${quoted(named)}`, wanted);
}

/** Each sample's outputs come from the stage where it left, and meet in one array. */
function checkOutputs(bundle: Bundle, batch: string | null): void {
  const axes = namedAxes(bundle);
  const named = batch ?? "";
  for (const { name, dtype, shape } of bundle.outputs) {
    const rest = shape.slice(1);
    const same = rest.every((size) => typeof size === "number" || (axes.has(size) && size !== batch));
    expect(
      shape[0] === batch && same,
      () => `outputs ${quoted(name)}: shape ${listed(shape)} with ${bundle.stages.length} stages`,
      () => `${quoted(named)}, then sizes that are the same in each stage`,
    );
    if (name === CONFIDENCE_OUTPUT) {
      const fine = dtype === "float32" && rest.length === 0;
      expect(
        fine,
        () => `outputs ${quoted(name)}: ${described(dtype, shape)}`,
        () => `float32 [${quoted(named)}]`,
      );
    }
  }
}
