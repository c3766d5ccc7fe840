/** What the outputs of a model say, in a form that can be shown beside another model's. */

import type { Bundle } from "../../src/bundle/schema.js";
import { float16Value, type Tensor } from "../../src/tensor.js";

export type Outputs = Readonly<Record<string, Tensor>>;

/** A class and its probability. */
export interface Likely {
  readonly label: number;
  readonly name: string;
  readonly probability: number;
}

const SCORES = "logits";

/** The numbers of a tensor. */
export function numbers({ dtype, data }: Tensor): number[] {
  const values = Array.from(data as ArrayLike<number | bigint>, Number);
  return dtype === "float16" && data instanceof Uint16Array ? values.map(float16Value) : values;
}

/** What a class is called. */
export function className(bundle: Bundle, label: number): string {
  return bundle.class_names[label] ?? `${label}`;
}

/** The probabilities of all classes of the one sample, softmax of the logits; null where the model is no classifier. */
export function classes(bundle: Bundle, outputs: Outputs): Likely[] | null {
  const scores = outputs[SCORES];
  if (scores?.shape.length !== 2) return null;
  return softmax(numbers(scores)).map((probability, label) => ({ label, name: className(bundle, label), probability }));
}

/** The likeliest class of each token; null where the model tells none. */
export function tokenClasses(bundle: Bundle, outputs: Outputs): Likely[] | null {
  const scores = outputs[SCORES];
  if (scores?.shape.length !== 3) return null;
  const [, tokens, width] = scores.shape as [number, number, number];
  const all = numbers(scores);
  return Array.from({ length: tokens }, (_, token) => {
    const probabilities = softmax(all.slice(token * width, (token + 1) * width));
    const label = probabilities.indexOf(Math.max(...probabilities));
    return { label, name: className(bundle, label), probability: probabilities[label] ?? NaN };
  });
}

/** The cosine between the numbers of two models, over all outputs that both have. */
export function cosine(one: Outputs, other: Outputs): number {
  const names = Object.keys(one).filter((name) => other[name] !== undefined);
  const [left, right] = [one, other].map((outputs) => names.flatMap((name) => numbers(outputs[name]!)));
  const product = (a: readonly number[], b: readonly number[]): number =>
    a.reduce((sum, value, place) => sum + value * (b[place] ?? NaN), 0);
  return product(left!, right!) / Math.sqrt(product(left!, left!) * product(right!, right!));
}

function softmax(scores: readonly number[]): number[] {
  const highest = scores.reduce((most, one) => Math.max(most, one), -Infinity);
  const weights = scores.map((score) => Math.exp(score - highest));
  const sum = weights.reduce((all, one) => all + one, 0);
  return weights.map((weight) => weight / sum);
}
