/** How messages show values: as the Python runtime shows them, so that one search finds both. */

import { cut } from "./errors.js";

const ESCAPES: Record<string, string> = { "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t" };

/** Whether a text has no control characters, surrogates or separators but the space. */
export function isPrintable(text: string): boolean {
  return /^(?:[^\p{C}\p{Z}]| )*$/u.test(text);
}

/** A text in quotation marks. */
export function quoted(text: string): string {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  let body = "";
  for (const sign of text) {
    if (sign === mark) body += `\\${sign}`;
    else if (sign in ESCAPES) body += ESCAPES[sign];
    else if (isPrintable(sign)) body += sign;
    else body += escaped(sign.codePointAt(0)!);
  }
  return mark + body + mark;
}

function escaped(code: number): string {
  if (code < 0x100) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code < 0x10000 ? `\\u${code.toString(16).padStart(4, "0")}` : `\\U${code.toString(16).padStart(8, "0")}`;
}

/** A number that is a float, with its point. */
export function float(value: number | null): string {
  if (value === null) return "None";
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Number.isInteger(value) && Math.abs(value) < 1e16) return `${Object.is(value, -0) ? "-0" : value}.0`;
  const size = Math.abs(value);
  return exponent(size < 1e-4 || size >= 1e16 ? value.toExponential() : String(value));
}

/** A number with so many digits that count, without zeros behind them. */
export function general(value: number, digits = 6): string {
  if (!Number.isFinite(value)) return float(value);
  if (value === 0) return "0";
  const size = Number(value.toExponential(digits - 1).split("e")[1]);
  if (size < -4 || size >= digits) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    return exponent(`${trimmed(mantissa!)}e${power}`);
  }
  return trimmed(value.toFixed(Math.max(digits - 1 - size, 0)));
}

function trimmed(text: string): string {
  return text.includes(".") ? text.replace(/\.?0+$/u, "") : text;
}

/** Two digits of a power at least. */
function exponent(text: string): string {
  return text.replace(/e([+-])(\d)$/u, "e$10$2");
}

/** A number that is whole, with all of its digits. */
export function whole(value: number | bigint): string {
  return Number.isInteger(value) ? String(BigInt(value)) : String(value);
}

/** Names and sizes in brackets. */
export function listed(values: readonly (string | number | bigint)[]): string {
  return `[${values.map((one) => (typeof one === "string" ? quoted(one) : whole(one))).join(", ")}]`;
}

/** Names as a sentence lists them: `a`, `a or b`, `a, b or c`. */
export function either(names: readonly string[]): string {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names.join("");
}

/** A caller's value, on one line, cut where it grows long. */
export function shown(value: unknown): string {
  if (typeof value === "string") return cut(quoted(value));
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : float(value);
  if (value === null || value === undefined || typeof value === "bigint" || typeof value === "boolean") {
    return String(value);
  }
  if (Array.isArray(value))
    return cut(`[${value.slice(0, 20).map(shown).join(", ")}${value.length > 20 ? ", …" : ""}]`);
  return cut(typeof value === "object" ? typeName(value) : typeof value);
}

/** What kind of object a value is. */
export function typeName(value: unknown): string {
  if (typeof value !== "object" || value === null) return value === null ? "null" : typeof value;
  const maker: unknown = (Object.getPrototypeOf(value) as { constructor?: unknown } | null)?.constructor;
  return typeof maker === "function" ? maker.name || "object" : "object";
}
