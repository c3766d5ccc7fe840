/** Comparing the inputs and outputs of a stage's graph with what its bundle declares. */

import { batchAxis, type Bundle, CONFIDENCE_OUTPUT, MACS_OUTPUT, THRESHOLDS_KNOB } from "../bundle/schema.js";
import { listedNames } from "../bundle/curve_validation.js";
import { described } from "../bundle/tensor_validation.js";
import { BundleError } from "../errors.js";
import { quoted } from "../message_text.js";
import type { GraphTensor } from "./onnxruntime.js";

/** A tensor as a bundle declares it. */
interface Declared {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly (number | string)[];
}

/** A graph that was loaded. */
interface Graph {
  readonly inputs: ReadonlyMap<string, GraphTensor>;
  readonly outputs: ReadonlyMap<string, GraphTensor>;
}

/** Axes of the outputs that tell decisions, by role; of learners that are not flat it is one more. */
const RANKS: Readonly<Record<string, number>> = { runs: 1, index: 2, count: 1 };

/**
 * Check every stage's graph, and that together they take all inputs and knobs.
 *
 * @param place of the bundle, for messages.
 * @throws BundleError a stage takes something that the bundle does not declare, or not what it declares; lacks an
 *   output, or has it with another dtype or shape; or no stage takes an input or knob.
 */
export function checkInterfaces(bundle: Bundle, graphs: readonly Graph[], place: string): void {
  const taken = new Set<string>();
  for (const [number, graph] of graphs.entries()) {
    checkStage(bundle, number, graph, `${place}/${bundle.stages[number]!.file}`);
    for (const name of graph.inputs.keys()) taken.add(name);
    for (const carry of bundle.stages[number]!.carry) taken.add(carry.source);
  }
  for (const { name } of givenTensors(bundle)) {
    if (taken.has(name)) continue;
    throw new BundleError(
      `${place}: no stage's graph has the input ${quoted(name)} that bundle.json declares; export the model again`,
    );
  }
}

/** Check the graph that stands for all stages: it takes the bundle's inputs and gives its outputs. */
export function checkDense(bundle: Bundle, graph: Graph, file: string): void {
  const declared = new Map(bundle.inputs.map((spec) => [spec.name, spec]));
  const outputs = denseOutputs(bundle);
  const fine =
    [...graph.inputs.keys()].every((name) => declared.has(name)) &&
    outputs.every((spec) => graph.outputs.has(spec.name));
  if (!fine) {
    throw new BundleError(
      `${file}: the graph's inputs are ${listedNames(graph.inputs.keys())} and its outputs ` +
        `${listedNames(graph.outputs.keys())}, expected some of ${listedNames(declared.keys())} and ` +
        `${listedNames(outputs.map((spec) => spec.name))}, as it stands for all stages; export the model again`,
    );
  }
  compare(
    file,
    [...graph.inputs.keys()].map((name) => declared.get(name)!),
    graph.inputs,
    true,
  );
  compare(file, outputs, graph.outputs, false);
}

/** What the dense graph gives: where it is no other network, its work goes without saying. */
export function denseOutputs(bundle: Bundle): Declared[] {
  return bundle.outputs.filter((spec) => bundle.dense.answers_full || spec.name !== MACS_OUTPUT);
}

/** What a caller's call feeds to the graphs. */
function givenTensors(bundle: Bundle): Declared[] {
  return [...bundle.inputs, ...bundle.knobs.filter((knob) => knob.name !== THRESHOLDS_KNOB)];
}

function checkStage(bundle: Bundle, number: number, graph: Graph, file: string): void {
  const carried: readonly Declared[] = bundle.stages[number]!.carry;
  const given = givenTensors(bundle);
  const declared = new Map([...carried, ...given].map((spec) => [spec.name, spec]));
  const several = bundle.stages.length > 1;
  const must = several ? carried.map((spec) => spec.name) : [...declared.keys()];
  const names = [...graph.inputs.keys()];
  const mixed = several ? " for this stage; the stages were mixed up:" : ";";
  if (!must.every((name) => graph.inputs.has(name)) || !names.every((name) => declared.has(name))) {
    const free = several ? `, and any of ${listedNames(given.map((spec) => spec.name))},` : "";
    throw new BundleError(
      `${file}: the graph's inputs are ${listedNames(names)}, expected ${listedNames(must)}${free} as bundle.json ` +
        `declares${mixed} export the model again`,
    );
  }
  const outputs = stageOutputs(bundle, number);
  for (const { name } of outputs) {
    if (graph.outputs.has(name)) continue;
    throw new BundleError(
      `${file}: the graph's outputs are ${listedNames(graph.outputs.keys())}, expected ${quoted(name)} among them as ` +
        `bundle.json declares${mixed} export the model again`,
    );
  }
  compare(
    file,
    names.map((name) => declared.get(name)!),
    graph.inputs,
    true,
  );
  compare(file, outputs, graph.outputs, false);
}

/** All outputs that a stage's graph must have. */
function stageOutputs(bundle: Bundle, number: number): Declared[] {
  const batch = batchAxis(bundle) ?? "?";
  const outputs: Declared[] = [...bundle.outputs];
  const after = bundle.stages[number + 1];
  if (after !== undefined) outputs.push({ name: CONFIDENCE_OUTPUT, dtype: "float32", shape: [batch] });
  for (const decision of bundle.stages[number]!.decisions) {
    for (const [role, name] of Object.entries(decision.outputs)) {
      const rank = RANKS[role]! + (decision.flat ? 0 : 1);
      outputs.push({ name, dtype: "int32", shape: new Array<string>(rank).fill("?") });
    }
  }
  const inputs = new Set(bundle.inputs.map((spec) => spec.name));
  for (const { source, dtype, shape } of after?.carry ?? []) {
    if (!inputs.has(source)) outputs.push({ name: source, dtype, shape });
  }
  return outputs;
}

function compare(file: string, all: readonly Declared[], graph: ReadonlyMap<string, GraphTensor>, fed: boolean): void {
  for (const spec of all) {
    const actual = graph.get(spec.name)!;
    if (agree(spec, actual, fed)) continue;
    throw new BundleError(
      `${file}: ${quoted(spec.name)} is ${described(actual.dtype, actual.shape)} in the graph, expected ` +
        `${described(spec.dtype, spec.shape)} as bundle.json declares; export the model again`,
    );
  }
}

/**
 * Whether two descriptions can be of one tensor.
 *
 * A size fixed in the bundle may be dynamic in the graph; the other way round an input would be refused at the first
 * call. ONNX Runtime gives an unknown rank as no axes.
 */
function agree(declared: Declared, actual: GraphTensor, fed: boolean): boolean {
  if (declared.dtype !== actual.dtype) return false;
  if (actual.shape.length === 0 && !fed) return true;
  return (
    declared.shape.length === actual.shape.length &&
    declared.shape.every((want, axis) => {
      const have = actual.shape[axis];
      return want === have || typeof have === "string" || (typeof want === "string" && !fed);
    })
  );
}
