/** What can go wrong when a bundle is loaded or run. Every message is one line: what was got, expected, what to do. */

const LONGEST_DETAIL = 300;

/** Of everything that this package raises on purpose. */
export class AdaptrtError extends Error {
  override readonly name: string = "AdaptrtError";
}

/** The bundle is missing, damaged, from another version, or reaches outside itself. */
export class BundleError extends AdaptrtError {
  override readonly name: string = "BundleError";
}

/** A tensor or knob value handed to `run` is not what the bundle declares. */
export class InputError extends AdaptrtError {
  override readonly name: string = "InputError";
}

/** A budget makes no sense, or the bundle cannot obey it. */
export class BudgetError extends AdaptrtError {
  override readonly name: string = "BudgetError";
}

/** The engine that executes the graph is missing, refuses the graph, or failed while running it. */
export class BackendError extends AdaptrtError {
  override readonly name: string = "BackendError";
}

/** The engine answered with something of another size or type than the bundle declares. */
export class OutputError extends BackendError {
  override readonly name: string = "OutputError";
}

const KINDS = [BundleError, InputError, BudgetError, OutputError, BackendError, AdaptrtError] as const;

/** The error of a name and message, as it was on the other side of a worker. */
export function errorNamed(name: string, message: string): Error {
  const kind = KINDS.find((one) => one.name === name);
  return kind === undefined ? new Error(message) : new kind(message);
}

/** The text of another library's exception on one line, cut where it grows long. */
export function oneLine(error: unknown): string {
  const text = error instanceof Error ? error.message || error.name : String(error);
  return cut(text);
}

/** A text on one line, cut where it grows long. */
export function cut(text: string): string {
  const line = text.split(/\s+/u).filter(Boolean).join(" ");
  return line.length <= LONGEST_DETAIL ? line : `${line.slice(0, LONGEST_DETAIL)}…`;
}
