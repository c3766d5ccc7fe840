/** A small ONNX file, written field by field, whose weights lie in another file, and a bundle around it. */

import { createHash } from "node:crypto";

const text = (value) => Buffer.from(value, "utf8");

function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push(value % 128 | 128);
  return Buffer.from([...bytes, value]);
}

/** A message of fields: `[number, whole number]` or `[number, bytes]`. */
function message(...fields) {
  return Buffer.concat(
    fields.map(([number, value]) =>
      typeof value === "number"
        ? Buffer.concat([varint(number * 8), varint(value)])
        : Buffer.concat([varint(number * 8 + 2), varint(value.length), value]),
    ),
  );
}

const FLOAT = 1;
const EXTERNAL = 1;
const INTS = 7;

function value(name, sizes) {
  const dims = sizes.map((size) => [1, typeof size === "number" ? message([1, size]) : message([2, text(size)])]);
  const tensor = message([1, FLOAT], [2, message(...dims)]);
  return message([1, text(name)], [2, message([1, tensor])]);
}

/** `y = x + w` and `macs_fraction`, the least element of `x`; `w`, float32 [2], lies at `location`. */
export function externalModel(location) {
  const entry = message([1, text("location")], [2, text(location)]);
  const weights = message([1, 2], [2, FLOAT], [8, text("w")], [13, entry], [14, EXTERNAL]);
  const add = message([1, text("x")], [1, text("w")], [2, text("y")], [4, text("Add")]);
  const axes = message([1, text("axes")], [8, 1], [20, INTS]);
  const flat = message([1, text("keepdims")], [3, 0], [20, 2]);
  const least = message([1, text("x")], [2, text("macs_fraction")], [4, text("ReduceMin")], [5, axes], [5, flat]);
  const graph = message(
    [1, add],
    [1, least],
    [2, text("g")],
    [5, weights],
    [11, value("x", ["batch", 2])],
    [12, value("y", ["batch", 2])],
    [12, value("macs_fraction", ["batch"])],
  );
  return message([1, 8], [8, message([2, 13])], [7, graph]);
}

const hash = (content) => createHash("sha256").update(content).digest("hex");

/** The files of a bundle whose model keeps its weights at `location`, listed under `listed`. */
export function externalBundle({
  location = "model.onnx.data",
  listed = ["model.onnx.data"],
  file = "model.onnx",
} = {}) {
  const model = externalModel(location);
  const weights = Buffer.from(new Float32Array([10, 20]).buffer);
  const tensor = (name, shape) => ({ name, dtype: "float32", shape });
  const bundle = {
    format_version: 2,
    name: "external",
    producer: "tests",
    inputs: [tensor("x", ["batch", 2])],
    outputs: [tensor("y", ["batch", 2]), tensor("macs_fraction", ["batch"])],
    stages: [{ file, sha256: hash(model), external_data: listed.map((one) => ({ file: one, sha256: hash(weights) })) }],
    knobs: [],
    dense: { macs: 2, parameters: 2 },
    axes: { batch: { shortest: 0 } },
  };
  const files = { "bundle.json": Buffer.from(JSON.stringify(bundle)), [file]: model };
  for (const one of listed) files[one] = weights;
  return files;
}

/** A source of files in memory. */
export function memorySource(files) {
  return { place: "memory", read: async (path) => (path in files ? new Uint8Array(files[path]) : null) };
}
