/**
 * Types that a JSON value must have, and the TypeScript type that it then is. Messages are those of the Python
 * runtime.
 */

import { type Json, JsonFloat } from "./json.js";

/** A value has another type than it should. */
export class WrongType extends Error {}

/** A type, and how a value becomes one of it. */
export interface JsonType<T> {
  /** As messages call it. */
  readonly name: string;
  /** Whether a value looks like one, by its outermost form. */
  is(value: Json): boolean;
  /** The value; `place` is where it stands. Throws `WrongType`. */
  decode(value: Json, place: string): T;
}

/** The TypeScript type of a JSON type. */
export type Decoded<T> = T extends JsonType<infer V> ? V : never;

function kindOf(value: Json): string {
  if (value === null) return "null";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "string") return "str";
  if (typeof value === "number" || typeof value === "bigint") return "int";
  if (value instanceof JsonFloat) return "float";
  return Array.isArray(value) ? "array" : "object";
}

function at(place: string): string {
  return place === "$" ? "" : ` - at \`${place}\``;
}

function wrong(name: string, value: Json, place: string): WrongType {
  return new WrongType(`Expected \`${name}\`, got \`${kindOf(value)}\`${at(place)}`);
}

function simple<T>(name: string, is: (value: Json) => boolean, convert: (value: Json) => T): JsonType<T> {
  return {
    name,
    is,
    decode(value, place) {
      if (!is(value)) throw wrong(name, value, place);
      return convert(value);
    },
  };
}

/** A whole number that need not be exact beyond 2^53. */
export const int: JsonType<number> = simple("int", (value) => kindOf(value) === "int", Number);
/** A whole number of any size, exactly. */
export const bigInt: JsonType<number | bigint> = simple("int", int.is, (value) => value as number | bigint);
/** A number. Infinity stands where the exit thresholds' null was. */
export const float: JsonType<number> = simple(
  "float",
  (value) => value instanceof JsonFloat || int.is(value),
  (value) => (value instanceof JsonFloat ? value.value : Number(value)),
);
export const text: JsonType<string> = simple("str", (value) => typeof value === "string", String);
export const bool: JsonType<boolean> = simple("bool", (value) => typeof value === "boolean", Boolean);
/** Whatever stands there, as plain values. */
export const any: JsonType<unknown> = simple("any", () => true, plain);

function plain(value: Json): unknown {
  if (value instanceof JsonFloat) return value.value;
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return mapped(value, plain);
}

function mapped<T>(value: { [key: string]: Json }, convert: (value: Json) => T): { [key: string]: T } {
  const content = Object.create(null) as { [key: string]: T };
  for (const [key, one] of Object.entries(value)) content[key] = convert(one);
  return content;
}

/** The value, or null. */
export function nullable<T>(type: JsonType<T>): JsonType<T | null> {
  return {
    name: `${type.name} | null`,
    is: (value) => value === null || type.is(value),
    decode(value, place) {
      if (value === null) return null;
      if (!type.is(value)) throw wrong(`${type.name} | null`, value, place);
      return type.decode(value, place);
    },
  };
}

/** One of two types that look different. */
export function union<A, B>(one: JsonType<A>, other: JsonType<B>): JsonType<A | B> {
  const name = `${one.name} | ${other.name}`;
  return {
    name,
    is: (value) => one.is(value) || other.is(value),
    decode(value, place) {
      const type = [one, other].find((each) => each.is(value));
      if (type === undefined) throw wrong(name, value, place);
      return type.decode(value, place);
    },
  };
}

export function list<T>(type: JsonType<T>): JsonType<T[]> {
  const is = (value: Json): boolean => Array.isArray(value);
  return {
    name: "array",
    is,
    decode(value, place) {
      if (!Array.isArray(value)) throw wrong("array", value, place);
      return value.map((one, index) => type.decode(one, `${place}[${index}]`));
    },
  };
}

function isObject(value: Json): value is { [key: string]: Json } {
  return kindOf(value) === "object";
}

/** Values by names that are not known beforehand. */
export function dictionary<T>(type: JsonType<T>): JsonType<{ readonly [key: string]: T }> {
  return {
    name: "object",
    is: isObject,
    decode(value, place) {
      if (!isObject(value)) throw wrong("object", value, place);
      return mapped(value, (one) => type.decode(one, `${place}[...]`));
    },
  };
}

/** A key of a record: its type, and what stands for it where it is left out. */
interface Field<T> {
  readonly type: JsonType<T>;
  readonly otherwise?: { readonly value: T };
}

/** A key that may be left out. */
export function optional<T>(type: JsonType<T>, value: T): Field<T> {
  return { type, otherwise: { value } };
}

/** A key that must be there. */
export function required<T>(type: JsonType<T>): Field<T> {
  return { type };
}

type Fields = { readonly [key: string]: Field<unknown> };
type RecordOf<F extends Fields> = { readonly [K in keyof F]: F[K] extends Field<infer T> ? T : never };

/** An object of known keys; others are ignored. */
export function record<F extends Fields>(fields: F): JsonType<RecordOf<F>> {
  const entries = Object.entries(fields);
  return {
    name: "object",
    is: isObject,
    decode(value, place) {
      if (!isObject(value)) throw wrong("object", value, place);
      const content = Object.create(null) as { [key: string]: unknown };
      for (const [key, one] of Object.entries(value)) {
        // In the order of the file: the first that is wrong is named.
        if (Object.hasOwn(fields, key)) content[key] = fields[key]!.type.decode(one, `${place}.${key}`);
      }
      for (const [key, { otherwise }] of entries) {
        if (key in content) continue;
        if (otherwise === undefined) throw new WrongType(`Object missing required field \`${key}\`${at(place)}`);
        content[key] = otherwise.value;
      }
      return content as RecordOf<F>;
    },
  };
}
