"""What the decisions that a bundle tells, and the tokens that they are about, must satisfy. Reads no file."""

from __future__ import annotations

from adaptrt.runtime.bundle.expectations import expect, expect_text, expect_unique, short
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, DECISION_ROLES, Bundle, DecisionSpec
from adaptrt.runtime.bundle.tensor_validation import MAX_SIZE

MAX_DECISIONS = 10_000
MAX_TOKEN_SETS = 100


def check_decisions(bundle: Bundle) -> None:
    """Check that every decision can be followed to the tokens that it is about.

    Raises:
        Invalid: names the first value that was wrong, what was expected and what to do.
    """
    _check_tokens(bundle)
    decisions = [(number, decision) for number, stage in enumerate(bundle.stages) for decision in stage.decisions]
    expect(len(decisions) <= MAX_DECISIONS, f"stages: {len(decisions)} decisions", f"at most {MAX_DECISIONS}")
    next_number = dict.fromkeys(DECISION_ROLES, 0)
    sized = {name for name, tokens in bundle.tokens.items() if tokens.size is not None}
    for stage, decision in decisions:
        where = f"stages[{stage}] decisions: {short(decision.kind)} {decision.number}"
        _check_decision(where, decision)
        expect(decision.number == next_number[decision.kind], where, f"number {next_number[decision.kind]}")
        next_number[decision.kind] += 1
        known = ", ".join(short(name) for name in sorted(bundle.tokens)[:10]) or "none"
        expect(decision.of in bundle.tokens, f"{where} of {short(decision.of)}", f"a set of tokens ({known})")
        fine = decision.of in sized or (stage == 0 and decision.kind == "learners")
        expect(
            fine,
            f"{where}: the first about the tokens {short(decision.of)} of no size",
            "how many a sample has at first, a number or the name of an axis of the inputs",
        )
        sized.add(decision.of)
    taken = [*(spec.name for spec in bundle.outputs), CONFIDENCE_OUTPUT]
    for number, stage_spec in enumerate(bundle.stages):
        names = [name for decision in stage_spec.decisions for name in decision.outputs.values()]
        expect_unique(f"stages[{number}] outputs and decisions", [*dict.fromkeys(taken), *names])


def _check_decision(where: str, decision: DecisionSpec) -> None:
    kinds = ", ".join(DECISION_ROLES)
    expect(decision.kind in DECISION_ROLES, f"{where}: kind {short(decision.kind)}", f"one of {kinds}")
    roles = DECISION_ROLES[decision.kind]
    got = ", ".join(short(role) for role in sorted(decision.outputs)[:10]) or "none"
    expect(set(decision.outputs) == set(roles), f"{where}: outputs {got}", f"exactly {', '.join(map(repr, roles))}")
    for name in decision.outputs.values():
        expect_text(f"{where} output", name)
    if decision.kind == "selection":
        expect(decision.flat, f"{where}: flat is false", "true, as of every selection")
    else:
        expect(decision.nested, f"{where}: nested is false", "true, as of all learners")


def _check_tokens(bundle: Bundle) -> None:
    axes = sorted({size for spec in bundle.inputs for size in spec.shape if isinstance(size, str)})
    expect(len(bundle.tokens) <= MAX_TOKEN_SETS, f"tokens: {len(bundle.tokens)} sets", f"at most {MAX_TOKEN_SETS}")
    carried = {carry.name for stage in bundle.stages for carry in stage.carry}
    for name, tokens in bundle.tokens.items():
        expect_text("tokens", name)
        where = f"tokens {short(name)}"
        if isinstance(tokens.size, str):
            fine = tokens.size in axes
            expect(fine, f"{where}: axis {short(tokens.size)}", f"an axis of the inputs ({', '.join(axes) or 'none'})")
        elif tokens.size is not None:
            expect(1 <= tokens.size <= MAX_SIZE, f"{where}: size {tokens.size}", f"1 to {MAX_SIZE}")
        if tokens.valid is not None:
            fine = tokens.valid in carried
            expect(fine, f"{where}: valid {short(tokens.valid)}", "the name of a tensor that some stage carries")
    expect_unique("tokens' masks", [tokens.valid for tokens in bundle.tokens.values() if tokens.valid is not None])
