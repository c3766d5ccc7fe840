/** What the decisions that a bundle tells, and the tokens that they are about, must satisfy. */

import { quoted, whole } from "../message_text.js";
import { expect, expectText, expectUnique, short } from "./expectations.js";
import { type Bundle, CONFIDENCE_OUTPUT, DECISION_ROLES, type DecisionSpec } from "./schema.js";
import { MAX_SIZE, namedAxes } from "./tensor_validation.js";

const MAX_DECISIONS = 10_000;
const MAX_TOKEN_SETS = 100;

/** Check that every decision can be followed to the tokens that it is about. */
export function checkDecisions(bundle: Bundle): void {
  checkTokens(bundle);
  const decisions = bundle.stages.flatMap((stage, number) => stage.decisions.map((one) => [number, one] as const));
  expect(
    decisions.length <= MAX_DECISIONS,
    () => `stages: ${decisions.length} decisions`,
    () => `at most ${MAX_DECISIONS}`,
  );
  const next = new Map(Object.keys(DECISION_ROLES).map((kind) => [kind, 0]));
  const sized = new Set(
    Object.entries(bundle.tokens)
      .filter(([, tokens]) => tokens.size !== null)
      .map(([name]) => name),
  );
  for (const [stage, decision] of decisions) {
    const where = `stages[${stage}] decisions: ${short(decision.kind)} ${whole(decision.number)}`;
    checkDecision(where, decision);
    const number = next.get(decision.kind)!;
    expect(
      decision.number === number,
      () => where,
      () => `number ${number}`,
    );
    next.set(decision.kind, number + 1);
    const known = Object.keys(bundle.tokens).sort().slice(0, 10).map(short).join(", ") || "none";
    const listed = Object.hasOwn(bundle.tokens, decision.of);
    expect(
      listed,
      () => `${where} of ${short(decision.of)}`,
      () => `a set of tokens (${known})`,
    );
    expect(
      sized.has(decision.of) || (stage === 0 && decision.kind === "learners"),
      () => `${where}: the first about the tokens ${short(decision.of)} of no size`,
      () => "how many a sample has at first, a number or the name of an axis of the inputs",
    );
    sized.add(decision.of);
  }
  const taken = new Set([...bundle.outputs.map((spec) => spec.name), CONFIDENCE_OUTPUT]);
  for (const [number, stage] of bundle.stages.entries()) {
    const names = stage.decisions.flatMap((decision) => Object.values(decision.outputs));
    expectUnique(`stages[${number}] outputs and decisions`, [...taken, ...names]);
  }
}

function checkDecision(where: string, decision: DecisionSpec): void {
  const known = Object.hasOwn(DECISION_ROLES, decision.kind);
  expect(
    known,
    () => `${where}: kind ${short(decision.kind)}`,
    () => `one of ${Object.keys(DECISION_ROLES).join(", ")}`,
  );
  const roles = DECISION_ROLES[decision.kind]!;
  const got = Object.keys(decision.outputs).sort();
  expect(
    got.length === roles.length && roles.every((role) => got.includes(role)),
    () => `${where}: outputs ${got.slice(0, 10).map(short).join(", ") || "none"}`,
    () => `exactly ${roles.map(quoted).join(", ")}`,
  );
  for (const name of Object.values(decision.outputs)) expectText(`${where} output`, name);
  if (decision.kind === "selection")
    expect(
      decision.flat,
      () => `${where}: flat is false`,
      () => "true, as of every selection",
    );
  else
    expect(
      decision.nested,
      () => `${where}: nested is false`,
      () => "true, as of all learners",
    );
}

function checkTokens(bundle: Bundle): void {
  const axes = [...namedAxes(bundle)].sort();
  const sets = Object.entries(bundle.tokens);
  expect(
    sets.length <= MAX_TOKEN_SETS,
    () => `tokens: ${sets.length} sets`,
    () => `at most ${MAX_TOKEN_SETS}`,
  );
  const carried = new Set(bundle.stages.flatMap((stage) => stage.carry.map((carry) => carry.name)));
  for (const [name, { size, valid }] of sets) {
    expectText("tokens", name);
    const where = `tokens ${short(name)}`;
    if (typeof size === "string") {
      const wanted = (): string => `an axis of the inputs (${axes.join(", ") || "none"})`;
      expect(axes.includes(size), () => `${where}: axis ${short(size)}`, wanted);
    } else if (size !== null) {
      expect(
        1 <= size && size <= MAX_SIZE,
        () => `${where}: size ${whole(size)}`,
        () => `1 to ${MAX_SIZE}`,
      );
    }
    if (valid !== null) {
      const got = (): string => `${where}: valid ${short(valid)}`;
      expect(carried.has(valid), got, () => "the name of a tensor that some stage carries");
    }
  }
  expectUnique(
    "tokens' masks",
    sets.map(([, tokens]) => tokens.valid).filter((valid) => valid !== null),
  );
}
