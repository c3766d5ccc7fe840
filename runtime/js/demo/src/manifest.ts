/** What the folder offers to try, as `adaptrt demo` wrote it into `demo.json`. */

import { BundleError, oneLine } from "../../src/errors.js";
import { MANIFEST } from "./places.js";

const FORMAT = 1;
const MOST_SAMPLES = 100;
const LONGEST_TEXT = 20_000;

/** A picture in a file of the folder, or a text. */
export interface Sample {
  readonly picture?: string;
  readonly text?: string;
}

/**
 * Read it. What it says is only ever fetched from this folder, and shown as text.
 *
 * @throws BundleError it is missing or no such file.
 */
export async function readManifest(): Promise<readonly Sample[]> {
  let content: unknown;
  try {
    const response = await fetch(MANIFEST);
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    content = await response.json();
  } catch (error) {
    throw new BundleError(`demo.json cannot be read (${oneLine(error)}); write the folder again with \`adaptrt demo\``);
  }
  const { format, samples } = (content ?? {}) as { readonly format?: unknown; readonly samples?: unknown };
  if (format !== FORMAT || !Array.isArray(samples) || samples.length > MOST_SAMPLES || !samples.every(isSample)) {
    throw new BundleError(
      `demo.json is not of format ${FORMAT}, expected what \`adaptrt demo\` writes; write the folder again with it`,
    );
  }
  return samples as Sample[];
}

function isSample(value: unknown): value is Sample {
  if (typeof value !== "object" || value === null) return false;
  const { picture, text } = value as { readonly picture?: unknown; readonly text?: unknown };
  if (typeof picture === "string") return /^samples\/[\w-]+\.\w+$/u.test(picture) && text === undefined;
  return typeof text === "string" && text.length <= LONGEST_TEXT && picture === undefined;
}
