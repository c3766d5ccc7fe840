"""What must hold of the ways in which pictures, texts and recordings become a bundle's inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptrt.runtime.bundle.expectations import expect, expect_finite, expect_text, short
from adaptrt.runtime.bundle.preprocessing_schema import (
    AUDIO_KINDS,
    CHANNEL_ORDERS,
    RESAMPLES,
    RESIZES,
    SIDES,
    TEXT_ROLES,
    TOKENIZER_ROLE,
    TRUNCATIONS,
    AudioPreprocessing,
    ImagePreprocessing,
    TextPreprocessing,
)
from adaptrt.runtime.bundle.schema import Bundle, TensorSpec

MAX_EDGE = 65_536
"""Pixels of a picture's edge."""
MAX_TOKENS = 2**24
MAX_SAMPLES = 2**26
"""Of one spectrogram: more than an hour at 16 kHz."""
MAX_RATE = 1_000_000
_FILLED_BY_ONE = "one of preprocessing, text and audio"
_NUMBERS_OF_SIZES = {"stretch": (0, 2), "shortest_edge": (1,), "none": (0,)}


def check_image(where: str, recipe: ImagePreprocessing) -> None:
    """How pictures become an input.

    Raises:
        Invalid: a value is none that a picture can be made with.
    """
    expect(recipe.channels in {1, 3}, f"{where}: {recipe.channels} channels", "1 or 3")
    for key, size in (("height", recipe.height), ("width", recipe.width)):
        expect(1 <= size <= MAX_EDGE, f"{where}: {key} {size}", f"1 to {MAX_EDGE}")
    for key, values in (("mean", recipe.mean), ("std", recipe.std)):
        expect(
            len(values) in {1, recipe.channels},
            f"{where}: {len(values)} {key} values",
            "1 or one per channel",
        )
        expect_finite(f"{where} {key}", values)
    fine = len(recipe.background) in {1, recipe.channels} and all(0 <= value <= 255 for value in recipe.background)
    expect(fine, f"{where}: background {recipe.background[:4]}", "1 value from 0 to 255, or one per channel")
    expect_finite(f"{where} scale", [recipe.scale])
    expect(recipe.scale > 0, f"{where}: scale {recipe.scale}", "above 0")
    expect(min(recipe.std) > 0, f"{where}: std {min(recipe.std)}", "above 0")
    _expect_one_of(f"{where}: resize", recipe.resize, RESIZES)
    _expect_one_of(f"{where}: resample", recipe.resample, RESAMPLES)
    _expect_one_of(f"{where}: order", recipe.order, CHANNEL_ORDERS)
    counts = _NUMBERS_OF_SIZES[recipe.resize]
    wanted = " or ".join(map(str, counts))
    fine = len(recipe.size) in counts and all(1 <= size <= MAX_EDGE for size in recipe.size)
    expect(fine, f"{where}: size {recipe.size[:4]}", f"{wanted} of 1 to {MAX_EDGE} with resize {recipe.resize!r}")


def check_sources(bundle: Bundle) -> None:
    """How texts and recordings become the bundle's inputs; every input is filled by one of its kinds at most.

    Raises:
        Invalid: an input is missing or of another shape, a limit is beyond the input's, or the tokenizer's file is
            not listed.
    """
    specs = {spec.name: spec for spec in bundle.inputs}
    filled = [spec.name for spec in bundle.inputs if spec.preprocessing is not None]
    for spec in bundle.outputs:
        expect(spec.preprocessing is None, f"outputs {short(spec.name)}: preprocessing", "none, as it is no input")
    if bundle.text is not None:
        filled += _check_text(bundle, bundle.text, specs)
    if bundle.audio is not None:
        filled += _check_audio(bundle, bundle.audio, specs)
    for name in filled:
        expect(filled.count(name) == 1, f"inputs {short(name)}: filled {filled.count(name)} times", _FILLED_BY_ONE)


def _longest_of(bundle: Bundle, size: int | str) -> int | None:
    """The most that an axis of an input may be long; None for no limit."""
    if isinstance(size, int):
        return size
    return bundle.axes[size].longest


def _check_text(bundle: Bundle, text: TextPreprocessing, specs: dict[str, TensorSpec]) -> list[str]:
    for role in text.inputs:
        _expect_one_of("text inputs: key", role, TEXT_ROLES)
    expect("ids" in text.inputs, f"text inputs: {sorted(text.inputs)}", "'ids' among them")
    filled = [_input("text inputs", text.inputs[role], specs, 2) for role in TEXT_ROLES if role in text.inputs]
    ids = filled[0]
    for spec in filled:
        same = spec.shape == ids.shape
        expect(same, f"text inputs {short(spec.name)}: shape {spec.shape}", f"{ids.shape} as of {short(ids.name)}")
    roles = [role for role in TEXT_ROLES if role in text.inputs]
    for role, spec in zip(roles, filled, strict=True):
        kinds = "iuf" + ("b" if role == "mask" else "") if role != "ids" else "iu"
        fine = np.dtype(spec.dtype).kind in kinds
        expect(fine, f"text inputs {role}: {spec.dtype}", "whole numbers" if role == "ids" else "a dtype of numbers")
    _expect_padding("text", bundle, ids, MAX_TOKENS)
    most = _longest_of(bundle, ids.shape[1])
    limit = min(MAX_TOKENS, MAX_TOKENS if most is None else most)
    expect(1 <= text.longest <= limit, f"text: longest {text.longest}", f"1 to {limit}")
    for key, number in (("padding_id", text.padding_id), ("padding_type", text.padding_type)):
        spec = specs[text.inputs.get("types", ids.name)] if key == "padding_type" else ids
        least, greatest = spec.minimum or 0, 2**31 - 1 if spec.maximum is None else spec.maximum
        expect(least <= number <= greatest, f"text: {key} {number}", f"{least} to {greatest}, as of {short(spec.name)}")
    if "mask" in text.inputs:
        _expect_zero_and_one("text inputs mask", specs[text.inputs["mask"]])
    if text.padding_token is not None:
        expect_text("text padding_token", text.padding_token)
    for key, side in (("padding_side", text.padding_side), ("truncation_side", text.truncation_side)):
        _expect_one_of(f"text: {key}", side, SIDES)
    _expect_one_of("text: truncation", text.truncation, TRUNCATIONS)
    listed = any(entry.role == TOKENIZER_ROLE for entry in bundle.files)
    expect(listed, "text without a tokenizer", f"a file with the role {TOKENIZER_ROLE!r}")
    return [spec.name for spec in filled]


def _check_audio(bundle: Bundle, audio: AudioPreprocessing, specs: dict[str, TensorSpec]) -> list[str]:
    _expect_one_of("audio: kind", audio.kind, AUDIO_KINDS)
    expect(1 <= audio.sample_rate <= MAX_RATE, f"audio: sample_rate {audio.sample_rate}", f"1 to {MAX_RATE}")
    expect_finite("audio padding_value", [audio.padding_value])
    spec = _input("audio input", audio.input, specs, 3 if audio.kind == "log_mel" else 2)
    expect(np.dtype(spec.dtype).kind == "f", f"audio input {short(spec.name)}: {spec.dtype}", "fractions")
    if audio.kind == "log_mel":
        for key, value, least, most in (
            ("samples", audio.samples, 1, MAX_SAMPLES),
            ("window", audio.window, 2, 2**16),
            ("hop", audio.hop, 1, min(audio.samples, 2**16)),
            ("mels", audio.mels, 1, 1_024),
        ):
            expect(least <= value <= most, f"audio: {key} {value}", f"{least} to {most}")
        # Its beginning and end are mirrored by half a window.
        expect(audio.samples > audio.window // 2, f"audio: samples {audio.samples}", "more than half of the window")
        expect(audio.mask is None, "audio: a mask of log_mel", "none: the whole is padded with silence")
        wanted = (audio.mels, audio.samples // audio.hop)
        for size, number in zip(spec.shape[1:], wanted, strict=True):
            named = isinstance(size, str)
            longest = bundle.axes[size].longest if isinstance(size, str) else size
            fine = size == number or (named and (longest is None or number <= longest))
            expect(fine, f"audio input {short(spec.name)}: shape {spec.shape}", f"the last axes to take {list(wanted)}")
        return [spec.name]
    _expect_padding("audio", bundle, spec, MAX_SAMPLES)
    if audio.mask is None:
        return [spec.name]
    mask = _input("audio mask", audio.mask, specs, 2)
    expect(mask.shape == spec.shape, f"audio mask: shape {mask.shape}", f"{spec.shape} as of {short(spec.name)}")
    _expect_zero_and_one("audio mask", mask)
    return [spec.name, mask.name]


def _input(where: str, name: str, specs: dict[str, TensorSpec], rank: int) -> TensorSpec:
    expect_text(where, name)
    expect(name in specs, f"{where}: {short(name)}", f"one of {', '.join(map(short, list(specs)[:10]))}")
    spec = specs[name]
    expect(len(spec.shape) == rank, f"{where} {short(name)}: {len(spec.shape)} axes", str(rank))
    return spec


def _expect_zero_and_one(where: str, spec: TensorSpec) -> None:
    fine = (spec.minimum or 0) <= 0 and (1 if spec.maximum is None else spec.maximum) >= 1
    expect(fine, f"{where} {short(spec.name)}: {spec.minimum} to {spec.maximum}", "limits with 0 and 1 between them")


def _expect_padding(where: str, bundle: Bundle, spec: TensorSpec, most: int) -> None:
    """The shortest sample is padded to so much, whatever it is: that must fit into memory."""
    size = spec.shape[1]
    least = bundle.axes[size].shortest if isinstance(size, str) else size
    expect(least <= most, f"{where} input {short(spec.name)}: at least {least} for each sample", f"at most {most}")


def _expect_one_of(where: str, value: str, choices: Sequence[str]) -> None:
    expect(value in choices, f"{where} {short(value)}", f"one of {', '.join(choices)}")
