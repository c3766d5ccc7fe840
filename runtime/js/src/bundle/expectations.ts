/** Saying what is wrong with a bundle's content: the sentences that all of its validation is made of. */

import { float, isPrintable, quoted } from "../message_text.js";

export const MAX_TEXT = 1_000;
export const AGAIN = "export the model again";

/** What is wrong with a bundle's content and what to do, without saying which bundle. */
export class Invalid extends Error {}

/** Raise `Invalid` with both texts unless all is well. */
export function expect(fine: boolean, got: () => string, expected: () => string): asserts fine {
  if (!fine) throw new Invalid(`${got()}, expected ${expected()}; ${AGAIN}`);
}

/** How many characters a text has. */
export function characters(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}

/** A text from a bundle as a message can show it. */
export function short(text: string): string {
  return quoted(characters(text) <= 80 ? text : `${[...text.slice(0, 160)].slice(0, 80).join("")}…`);
}

/** Names are shown to people: no control characters, no novels. */
export function expectText(where: string, text: string): void {
  const count = characters(text);
  const fine = count > 0 && count <= MAX_TEXT && isPrintable(text);
  expect(
    fine,
    () => `${where}: ${short(text)}`,
    () => `1 to ${MAX_TEXT} printable characters`,
  );
}

/** No name twice. */
export function expectUnique(where: string, names: readonly string[]): void {
  const seen = new Set<string>();
  for (const name of [...names].sort()) {
    expect(
      !seen.has(name),
      () => `${where}: ${short(name)} twice`,
      () => "each name once",
    );
    seen.add(name);
  }
}

/** Null stands for a number that was not measured. */
export function expectFinite(where: string, values: Iterable<number | null>): void {
  for (const value of values) {
    expect(
      value === null || Number.isFinite(value),
      () => `${where}: ${float(value)}`,
      () => "a finite number",
    );
  }
}

/** One of a list. */
export function expectOneOf(where: string, value: string, choices: readonly string[]): void {
  expect(
    choices.includes(value),
    () => `${where} ${short(value)}`,
    () => `one of ${choices.join(", ")}`,
  );
}
