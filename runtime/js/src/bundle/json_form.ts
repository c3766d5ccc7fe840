/** The JSON of `bundle.json`: infinity, which JSON lacks, and which formats are read. */

import { whole } from "../message_text.js";
import { AGAIN, Invalid } from "./expectations.js";
import { type Json, JsonFloat, NoJson, parseJson } from "./json.js";
import { int, nullable, optional, record, WrongType } from "./json_types.js";
import { type Bundle, bundleType, FORMAT_VERSION, THRESHOLDS_KNOB } from "./schema.js";

const INFINITE = { minimum: -Infinity, maximum: Infinity, default: Infinity };
/** Read first, so that a future format is named as such whatever else has changed in it. */
const versionType = record({ format_version: optional(nullable(int), null) });

type JsonObject = { [key: string]: Json };

/**
 * What the bytes of `bundle.json` say; its values are not checked yet.
 *
 * @throws Invalid they are no JSON, of a format that this version does not read, or have other keys and types.
 */
export function decodeBundle(bytes: Uint8Array): Bundle {
  try {
    const content = parseJson(bytes);
    const version = versionType.decode(content, "$").format_version;
    if (version !== FORMAT_VERSION) {
      throw new Invalid(
        `format_version is ${version === null ? "missing" : whole(version)}, expected ${FORMAT_VERSION}; ` +
          "export the model again with this adaptrt, or install the adaptrt that wrote it",
      );
    }
    restoreInfinity(content as JsonObject);
    return bundleType.decode(content, "$");
  } catch (error) {
    if (error instanceof WrongType) throw new Invalid(`${error.message}; ${AGAIN}`);
    if (error instanceof NoJson)
      throw new Invalid(`not readable as JSON (${error.message}); copy the bundle or ${AGAIN}`);
    throw error;
  }
}

/** Put infinity where JSON says null of the exit thresholds. Whatever has another form is left to the checks. */
function restoreInfinity(content: JsonObject): void {
  for (const knob of entries(content, "knobs")) {
    if (knob.name !== THRESHOLDS_KNOB) continue;
    for (const [key, infinite] of Object.entries(INFINITE)) {
      if (knob[key] === null) knob[key] = new JsonFloat(infinite);
    }
  }
  for (const point of [...entries(content, "curve"), ...tablePoints(content)]) {
    const knobs = asObject(point.knobs);
    const value = knobs?.[THRESHOLDS_KNOB];
    if (knobs === undefined || value === undefined) continue;
    if (Array.isArray(value)) knobs[THRESHOLDS_KNOB] = value.map((one) => one ?? new JsonFloat(Infinity));
    else if (value === null) knobs[THRESHOLDS_KNOB] = new JsonFloat(Infinity);
  }
}

function asObject(value: Json | undefined): JsonObject | undefined {
  const fine = typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof JsonFloat);
  return fine ? value : undefined;
}

function entries(content: JsonObject, key: string): JsonObject[] {
  const value = content[key];
  return Array.isArray(value) ? value.map(asObject).filter((one) => one !== undefined) : [];
}

/** Whatever in the table of budgets may have knobs. */
function tablePoints(content: JsonObject): JsonObject[] {
  const table = asObject(content.budget_table);
  if (table === undefined) return [];
  const rows = [...entries(table, "soft"), ...entries(table, "hard")];
  const ends = [...rows.map((row) => asObject(row.to)), asObject(table.full)];
  return [...rows, ...ends.filter((one) => one !== undefined)];
}
