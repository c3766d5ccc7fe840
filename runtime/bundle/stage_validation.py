"""What the stages of a bundle must satisfy among each other, but for their decisions. Reads no file."""

from __future__ import annotations

import math

from adaptrt.runtime.bundle.expectations import expect, expect_text, expect_unique, short
from adaptrt.runtime.bundle.schema import (
    CONFIDENCE_OUTPUT,
    CRITERIA,
    MACS_OUTPUT,
    THRESHOLDS_KNOB,
    Bundle,
    Carry,
    Knob,
)
from adaptrt.runtime.bundle.tensor_validation import check_array

MAX_CARRIED = 1_000


def check_stages(bundle: Bundle) -> None:
    """Check what passes between the stages, who may leave, and what is told about it.

    Raises:
        Invalid: names the first value that was wrong, what was expected and what to do.
    """
    several = len(bundle.stages) > 1
    thresholds = next((knob for knob in bundle.knobs if knob.name == THRESHOLDS_KNOB), None)
    if several:
        _check_exits(bundle, thresholds)
    else:
        expect(bundle.exit_criterion is None, f"exit_criterion: {bundle.exit_criterion!r} with one stage", "None")
        expect(thresholds is None, f"knobs {THRESHOLDS_KNOB!r} with one stage", "none of that name")
    for number, stage in enumerate(bundle.stages):
        where = f"stages[{number}]"
        if stage.exit is not None:
            expect_text(f"{where} exit", stage.exit)
        if number == 0:
            expect(not stage.carry, f"{where}: {len(stage.carry)} carried tensors", "none in the first stage")
        else:
            expect(1 <= len(stage.carry) <= MAX_CARRIED, f"{where}: {len(stage.carry)} carried", f"1 to {MAX_CARRIED}")
    batch = batch_axis(bundle)
    if several or any(stage.decisions for stage in bundle.stages):
        _check_batch(bundle, batch)
    if several:
        _check_outputs(bundle)
    names = [*(spec.name for spec in bundle.inputs), *(knob.name for knob in bundle.knobs)]
    given = {spec.name: spec for spec in bundle.inputs}
    masks = {tokens.valid for tokens in bundle.tokens.values()}
    for number, stage in enumerate(bundle.stages):
        for carry in stage.carry:
            where = f"stages[{number}] carry {short(carry.name)}"
            _check_carry(where, carry, batch)
            if carry.name in masks:
                fine = carry.dtype == "bool" and len(carry.shape) == 2
                expect(fine, f"{where}: {carry.dtype} {carry.shape}", f"bool [{batch!r}, 'tokens'], a mask of tokens")
            if carry.source in given:
                source = given[carry.source]
                expect(
                    (carry.dtype, carry.shape) == (source.dtype, source.shape),
                    f"{where}: {carry.dtype} {carry.shape} of the input {short(carry.source)}",
                    f"{source.dtype} {source.shape} as of that input",
                )
        expect_unique(f"stages[{number}] inputs, knobs and carry", [*names, *(carry.name for carry in stage.carry)])


def batch_axis(bundle: Bundle) -> str | None:
    """The name of the axis that counts samples; None where their number is fixed."""
    size = next(spec.shape[0] for spec in bundle.outputs if spec.name == MACS_OUTPUT)
    return size if isinstance(size, str) else None


def _check_exits(bundle: Bundle, thresholds: Knob | None) -> None:
    criterion = bundle.exit_criterion
    expect(
        criterion in CRITERIA,
        f"exit_criterion: {None if criterion is None else short(criterion)} with {len(bundle.stages)} stages",
        f"one of {', '.join(CRITERIA)}",
    )
    heads = [stage.exit or "" for stage in bundle.stages]
    for number, head in enumerate(heads):
        expect(bool(head), f"stages[{number}] exit: no name", "the name of its head, as there are several stages")
    expect_unique("stages' exits", heads)
    exits = len(bundle.stages) - 1
    got = "none" if thresholds is None else f"{thresholds.dtype} {thresholds.shape}"
    fine = thresholds is not None and thresholds.dtype == "float32" and thresholds.shape == [exits]
    expect(fine, f"knobs {THRESHOLDS_KNOB!r}: {got} with {len(bundle.stages)} stages", f"float32 [{exits}]")
    if thresholds is not None:
        expect(
            thresholds.default == thresholds.maximum == math.inf,
            f"knobs {THRESHOLDS_KNOB!r}: default {thresholds.default}, maximum {thresholds.maximum}",
            "infinity (null in JSON), at which no sample leaves",
        )


def _check_carry(where: str, carry: Carry, batch: str | None) -> None:
    expect_text(where, carry.name)
    expect_text(f"{where} source", carry.source)
    check_array(where, carry.dtype, carry.shape)
    fine = bool(carry.shape) and carry.shape[0] == batch and batch not in carry.shape[1:]
    expect(fine, f"{where}: shape {carry.shape}", f"{batch!r} as its first axis and no other")


def _check_batch(bundle: Bundle, batch: str | None) -> None:
    """Where samples part ways or are told about one by one, they must lie along one first axis."""
    expect(batch is not None, f"outputs {MACS_OUTPUT!r}: a fixed number of samples", "a named batch axis")
    batched = False
    for spec in bundle.inputs:
        batched |= spec.shape[:1] == [batch]
        expect(
            batch not in spec.shape[1:],
            f"inputs {spec.name!r}: shape {spec.shape}",
            f"{batch!r} as its first axis, or not at all",
        )
    expect(batched, f"inputs: none has the axis {batch!r}", f"one whose first axis it is, as of {MACS_OUTPUT!r}")


def _check_outputs(bundle: Bundle) -> None:
    """Each sample's outputs come from the stage where it left, and meet in one array."""
    axes = {size for spec in bundle.inputs for size in spec.shape if isinstance(size, str)}
    batch = batch_axis(bundle)
    for spec in bundle.outputs:
        rest = spec.shape[1:]
        fine = spec.shape[:1] == [batch] and all(isinstance(size, int) or size in axes - {batch} for size in rest)
        expect(
            fine,
            f"outputs {spec.name!r}: shape {spec.shape} with {len(bundle.stages)} stages",
            f"{batch!r}, then sizes that are the same in each stage",
        )
        if spec.name == CONFIDENCE_OUTPUT:
            fine = spec.dtype == "float32" and not rest
            expect(fine, f"outputs {spec.name!r}: {spec.dtype} {spec.shape}", f"float32 [{batch!r}]")
