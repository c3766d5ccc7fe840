/**
 * What an ONNX file says that has to be known before an engine sees it: its place among the stages, and every other
 * file that it refers to. Field numbers: onnx.proto (they never change).
 */

import { fields, NoMessage } from "./protobuf_wire.js";

/** A graph has some hundred thousand; more is an attempt to keep the reader busy. */
const MAX_FIELDS = 20_000_000;
const METADATA_PROPS = 14;
const [KEY, VALUE] = [1, 2];

/** The messages that can hold a tensor, and in which fields. */
const CHILDREN: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  model: { 7: "graph", 20: "training_info", 25: "function" },
  training_info: { 1: "graph", 2: "graph" },
  graph: { 1: "node", 5: "tensor", 15: "sparse_tensor" },
  function: { 7: "node", 11: "attribute" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse_tensor", 23: "sparse_tensor" },
  sparse_tensor: { 1: "tensor", 2: "tensor" },
  tensor: { 13: "external_data" },
  external_data: { [KEY]: "key", [VALUE]: "value" },
};

/**
 * The locations of all external data that an ONNX file refers to, anywhere in it, as they stand there.
 *
 * @throws NoMessage the bytes are no well-formed ModelProto, or of absurd complexity.
 */
export function externalLocations(model: Uint8Array): Set<string> {
  const locations = new Set<string>();
  const pending: [string, number, number][] = [["model", 0, model.length]];
  let seen = 0;
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const [message, position, end] = next;
    const children = CHILDREN[message]!;
    const keys: string[] = [];
    const values: string[] = [];
    for (const [number, start, stop] of fields(model, position, end)) {
      if (++seen > MAX_FIELDS) throw new NoMessage(`more than ${MAX_FIELDS} fields`);
      const child = start >= 0 ? children[number] : undefined;
      if (child === "key") keys.push(utf8(model, start, stop));
      else if (child === "value") values.push(utf8(model, start, stop));
      else if (child !== undefined) pending.push([child, start, stop]);
    }
    if (keys.includes("location")) for (const value of values.length > 0 ? values : [""]) locations.add(value);
  }
  return locations;
}

/** All values that an ONNX file has under a key of its metadata; more than one is an odd file. */
export function metadataProps(model: Uint8Array, key: string): string[] {
  const texts: string[] = [];
  for (const [number, start, stop] of fields(model, 0, model.length)) {
    if (number !== METADATA_PROPS || start < 0) continue;
    const entry = [...fields(model, start, stop)].filter(([, from]) => from >= 0);
    const told = entry.map(([field, from, to]) => [field, utf8(model, from, to)] as const);
    if (!told.some(([field, text]) => field === KEY && text === key)) continue;
    const values = told.filter(([field]) => field === VALUE).map(([, text]) => text);
    texts.push(...(values.length > 0 ? values : [""]));
  }
  return texts;
}

function utf8(model: Uint8Array, start: number, stop: number): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(model.subarray(start, stop));
  } catch {
    throw new NoMessage(`no UTF-8 at byte ${start}`);
  }
}
