/**
 * Holds this runtime against the conformance kit, in node and in a browser alike: `tests/conformance/README.md` says
 * what is compared. What reads files, loads bundles and makes budgets is handed in.
 */

/** Largest difference of outputs, absolute or of the value; the kit allows 1e-4. */
export const FLOATS = 2e-5;
const WORK = 1e-5;
const EXPECTED = 1e-9;
const ARRAYS = {
  bool: Uint8Array,
  uint8: Uint8Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
};

/** An expectation of the kit that is not met. */
export class Mismatch extends Error {}

function require(fine, where, got, expected) {
  if (!fine) throw new Mismatch(`${where}: got ${text(got)}, expected ${text(expected)}`);
}

function text(value) {
  return JSON.stringify(value, (_key, one) => {
    if (typeof one === "bigint") return String(one);
    return ArrayBuffer.isView(one) ? Array.from(one, (each) => (typeof each === "bigint" ? String(each) : each)) : one;
  })?.slice(0, 500);
}

/** Reads arrays from a binary file's bytes. */
export class ArrayReader {
  constructor(bytes) {
    this.bytes = bytes;
  }

  get({ dtype, shape, offset }) {
    const count = shape.reduce((all, size) => all * size, 1);
    const from = this.bytes.byteOffset + offset;
    const data = new ARRAYS[dtype](this.bytes.buffer.slice(from, from + count * ARRAYS[dtype].BYTES_PER_ELEMENT));
    return { dtype, shape, data };
  }

  getAll(entries) {
    return Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, this.get(entry)]));
  }
}

/** Rows `from` to `to` of a tensor. */
export function rowsOf({ dtype, shape, data }, from, to) {
  const width = shape.slice(1).reduce((all, size) => all * size, 1);
  const end = Math.min(to, shape[0]);
  return { dtype, shape: [end - from, ...shape.slice(1)], data: data.slice(from * width, end * width) };
}

function knobsOf(knobs) {
  const infinite = (value) => (Array.isArray(value) ? value.map((one) => one ?? Infinity) : (value ?? Infinity));
  return Object.fromEntries(Object.entries(knobs).map(([name, value]) => [name, infinite(value)]));
}

/** One bundle of the kit. */
export async function readCase(kit, name) {
  const content = await kit.json(`cases/${name}.json`);
  return { content, arrays: new ArrayReader(await kit.bytes(`cases/${content.arrays}`)) };
}

/**
 * Check all runs and look-ups of a bundle; how many comparisons there were, and the largest difference of a float.
 *
 * @param api the package.
 */
export async function checkCase(api, model, { content, arrays }, exact = false) {
  const inputs = arrays.getAll(content.inputs);
  const seen = { compared: 0, largest: 0, exact };
  for (const [number, run] of content.runs.entries()) {
    const where = `${content.name} run ${number}`;
    const expected = run.expected;
    const result = await runOf(api, model, inputs, run);
    require(sameKnobs(model, result.knobs, knobsOf(expected.knobs)), `${where} knobs`, result.knobs, expected.knobs);
    require(result.reachable === expected.reachable, where, result.reachable, expected.reachable);
    checkResult(where, result, expected, arrays, [0, Infinity], seen);
    if (run.decisions !== undefined) await checkDecisions(where, model, inputs, result.knobs, run.decisions, arrays);
    for (const [from, to] of [
      [0, 1],
      [2, 3],
      [0, 0],
      [1, 6],
    ]) {
      const fewer = Object.fromEntries(
        Object.entries(inputs).map(([name, one]) => [name, content.batch.includes(name) ? rowsOf(one, from, to) : one]),
      );
      const some = await runOf(api, model, fewer, run);
      checkResult(`${where} samples ${from} to ${to}`, some, expected, arrays, [from, to], seen);
    }
    seen.compared++;
  }
  seen.compared += checkLookUps(api, model, content);
  return seen;
}

function runOf(api, model, inputs, run) {
  return run.budget === undefined
    ? model.run(inputs, { knobs: knobsOf(run.knobs) })
    : model.run(inputs, { budget: api.Budget.of(run.budget) });
}

function checkResult(where, result, expected, arrays, [from, to], seen) {
  const wanted = arrays.getAll(expected.outputs);
  require(text(Object.keys(result.outputs)) === text(Object.keys(wanted)), where, Object.keys(
    result.outputs,
  ), Object.keys(wanted));
  for (const [name, whole] of Object.entries(wanted)) {
    const array = rowsOf(whole, from, to);
    const got = result.outputs[name];
    const form = [got.dtype, got.shape];
    require(text(form) === text([array.dtype, array.shape]), `${where} ${name}`, form, [array.dtype, array.shape]);
    const limit = array.dtype.startsWith("float") && !seen.exact ? FLOATS : 0;
    checkNumbers(`${where} ${name}`, got.data, array.data, limit, limit, seen);
  }
  const work = rowsOf(arrays.get(expected.macs_fraction), from, to);
  checkNumbers(`${where} macs_fraction`, result.macsFraction, work.data, seen.exact ? 0 : WORK, 0, null);
  const exit = result.exit === null ? null : Array.from(result.exit);
  const stages = expected.exit === null ? null : expected.exit.slice(from, to);
  require(text(exit) === text(stages), `${where} exit`, exit, stages);
}

function checkNumbers(where, got, wanted, absolute, relative, seen) {
  require(got.length === wanted.length, where, got.length, wanted.length);
  for (let index = 0; index < got.length; index++) {
    if (got[index] === wanted[index]) continue;
    const [one, other] = [Number(got[index]), Number(wanted[index])];
    const away = Math.abs(one - other);
    require(away <= absolute + relative * Math.abs(other), `${where}[${index}]`, one, other);
    if (seen !== null) seen.largest = Math.max(seen.largest, away / Math.max(1, Math.abs(other)));
  }
}

async function checkDecisions(where, model, inputs, knobs, expected, arrays) {
  const { decisions } = await model.run(inputs, { knobs, decisions: true });
  for (const [name, entry] of Object.entries(expected)) {
    for (const [kind, array] of Object.entries(arrays.getAll(entry))) {
      require(text(decisions[name][kind]) === text(array), `${where} ${name} ${kind}`, decisions[name][kind], array);
    }
  }
}

/** Whether the graphs get the same values. */
function sameKnobs(model, got, expected) {
  const names = Object.keys(got).sort();
  if (text(names) !== text(Object.keys(expected).sort())) return false;
  return model.bundle.knobs.every((knob) => {
    const size = knob.shape.reduce((all, one) => all * one, 1);
    const rounded = (value) => (knob.dtype === "float32" ? Math.fround(value) : value);
    const all = (value) => (Array.isArray(value) ? value : new Array(size).fill(value)).map(rounded);
    const [one, other] = [all(got[knob.name]), all(expected[knob.name])];
    return one.length === other.length && one.every((value, index) => value === other[index]);
  });
}

function checkLookUps(api, model, content) {
  const dtypes = new Map(model.bundle.knobs.map((knob) => [knob.name, knob.dtype]));
  for (const entry of content.look_ups) {
    const where = `${content.name} ${entry.table} share ${entry.share}`;
    const answer = api.lookUp(model.bundle.budget_table[entry.table], entry.share, dtypes);
    require(sameKnobs(model, answer.knobs, knobsOf(entry.knobs)), where, answer.knobs, entry.knobs);
    for (const key of ["work", "quality"]) {
      const [got, wanted] = [answer[key], entry[key]];
      const fine = got === wanted || (got !== null && wanted !== null && Math.abs(got - wanted) <= EXPECTED);
      require(fine, `${where} ${key}`, got, wanted);
    }
    require(answer.reachable === entry.reachable, where, answer.reachable, entry.reachable);
  }
  return content.look_ups.length;
}

/**
 * Check that wrong inputs, budgets and knobs are refused; the messages, by what is wrong.
 *
 * @param models gives the model of a case.
 */
export async function checkRefusedCalls(api, kit, models) {
  const content = await kit.json("refused.json");
  const arrays = new ArrayReader(await kit.bytes(content.arrays));
  const messages = {};
  for (const entry of content.inputs) {
    const model = await models(entry.case);
    messages[entry.why] = await refused(api, entry.why, () => model.run(arrays.getAll(entry.inputs)));
  }
  for (const entry of content.requests) {
    const { content: one, arrays: own } = await readCase(kit, entry.case);
    const model = await models(entry.case);
    messages[entry.why] = await refused(api, entry.why, async () => runOf(api, model, own.getAll(one.inputs), entry));
  }
  return messages;
}

/**
 * Check that damaged bundles are refused; the messages, by what is wrong.
 *
 * @param source gives the source of a bundle's files by its path in the kit.
 * @param load loads a source.
 */
export async function checkDamaged(api, kit, source, load) {
  const messages = {};
  for (const entry of (await kit.json("refused.json")).bundles) {
    const { bundle } = await kit.json(`cases/${entry.case}.json`);
    const replaced = entry.bundle_json === undefined ? null : await kit.bytes(entry.bundle_json);
    const damaged = new DamagedSource(await source(bundle), entry, replaced);
    messages[entry.why] = await refused(api, entry.why, () => load(damaged));
  }
  return messages;
}

/** A bundle with something wrong. */
class DamagedSource {
  constructor(whole, entry, bundleJson) {
    Object.assign(this, { whole, entry, bundleJson, place: whole.place });
  }

  async read(path, options) {
    if (path === "bundle.json" && this.bundleJson !== null) return this.bundleJson;
    const content = await this.whole.read(path, options);
    const { file, truncate, flip, remove } = this.entry;
    if (path !== file || content === null) return content;
    if (remove) return null;
    if (truncate !== undefined) return content.slice(0, truncate);
    const changed = content.slice();
    changed[flip] ^= 1;
    return changed;
  }
}

/** The message of an error that the package raises on purpose, on one line. */
export async function refused(api, why, call) {
  try {
    await call();
  } catch (error) {
    require(error instanceof api.AdaptrtError, why, `${error?.stack}`, "an AdaptrtError");
    require(!error.message.includes("\n"), why, error.message, "one line");
    return error.message;
  }
  throw new Mismatch(`${why}: got an answer, expected it to be refused`);
}

/** Check a trace of the controller; how many calls it has, and the largest relative difference. */
export function checkTrace(api, name, lines) {
  const [header, ...calls] = lines;
  const { curve, target, percentile, noise, cold, idle_after: idleAfter, limits } = header.config;
  const controller = new api.LatencyController(target, new api.ResponseCurve(curve.fractions, curve.responses), {
    percentile,
    noise,
    cold,
    idleAfter,
    limits,
  });
  let largest = 0;
  for (const [number, call] of calls.entries()) {
    const told = Object.fromEntries(header.columns.map((column, index) => [column, call[index]]));
    if (told.set_target_before !== null) controller.target = told.set_target_before;
    const choice = controller.choose(told.choose_now, told.scale);
    for (const key of ["fraction", "expected", "upper"]) {
      const away = Math.abs(choice[key] - told[key]) / Math.abs(told[key]);
      largest = Math.max(largest, away);
      require(away <= header.tolerance, `${name} call ${number} ${key}`, choice[key], told[key]);
    }
    for (const key of ["reachable", "cold", "steered"]) {
      require(choice[key] === told[key], `${name} call ${number} ${key}`, choice[key], told[key]);
    }
    if (told.measured === null) controller.passed(told.observe_now, choice);
    else controller.observe(told.observe_now, choice, told.done, told.measured, told.scale);
  }
  return { calls: calls.length, largest };
}
