/** What modules of this repository print in Python. */

import { execFileSync } from "node:child_process";

import { ROOT } from "./node_kit.js";

/** What `python -m MODULE …` prints. */
export function printed(...command) {
  const python = process.env.PYTHON ?? `${ROOT}.venv/bin/python`;
  const env = { ...process.env, PYTHONPATH: `${ROOT}src` };
  return execFileSync(python, ["-m", ...command], { cwd: ROOT, env, encoding: "utf8", maxBuffer: 2 ** 28 });
}

/** The lines of JSON that it prints. */
export function printedLines(...command) {
  return printed(...command)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
}
