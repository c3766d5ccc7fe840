"""What a bundle may not say of how its inputs are made. Everything here is refused before a package is imported."""

from __future__ import annotations

import pytest

from adaptrt.runtime import BundleError, load
from adaptrt.runtime.bundle.bundle_file import encode_bundle, read_bundle
from tests.runtime.preprocessing.word_tokenizer import TEXT


def refused(folder, match):
    for read in (load, read_bundle, lambda path: read_bundle(path, verify_hashes=False)):
        with pytest.raises(BundleError, match=match) as caught:
            read(folder)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_texts_come_back_as_written(texts):
    folder = texts(truncation="only_first", padding_side="left", lower_case=True)
    bundle = read_bundle(folder)
    assert bundle.text is not None and bundle.text.padding_side == "left"
    (folder / "bundle.json").write_bytes(encode_bundle(bundle))
    assert read_bundle(folder) == bundle


TEXTS = {
    "no ids": ({"inputs": {"mask": "mask"}}, r"text inputs: \['mask'\], expected 'ids' among them"),
    "another role": ({"inputs": {"ids": "words", "place": "mask"}}, "text inputs: key 'place', expected one of ids"),
    "an unknown input": ({"inputs": {"ids": "gone"}}, "text inputs: 'gone', expected one of 'words', 'mask'"),
    "ids that are booleans": ({"inputs": {"ids": "mask"}}, "text inputs ids: bool, expected whole numbers"),
    "ids that are fractions": ({"inputs": {"ids": "style"}}, "text inputs ids: float32, expected whole numbers"),
    "a mask of another shape": ({"inputs": {"ids": "words", "mask": "style"}}, "'style': shape .*expected .*'length'"),
    "types that are booleans": (
        {"inputs": {"ids": "words", "types": "mask"}},
        "types: bool, expected a dtype of numbers",
    ),
    "an input twice": ({"inputs": {"ids": "words", "types": "words"}}, "'words': filled 2 times, expected one of"),
    "no length": ({"longest": 0}, "text: longest 0, expected 1 to 12"),
    "longer than the input": ({"longest": 13}, "text: longest 13, expected 1 to 12"),
    "padding beyond the words": ({"padding_id": 40}, "text: padding_id 40, expected 0 to 39, as of 'words'"),
    "negative padding": ({"padding_id": -1}, "text: padding_id -1, expected 0 to 39"),
    "a padding type beyond": ({"padding_type": 2**31}, "text: padding_type 2147483648, expected"),
    "a token of lines": ({"padding_token": "a\nb"}, r"text padding_token: 'a\\nb', expected 1 to 1000 printable"),
    "another side": ({"padding_side": "top"}, "text: padding_side 'top', expected one of left, right"),
    "another end": ({"truncation_side": ""}, "text: truncation_side '', expected one of left, right"),
    "another truncation": ({"truncation": "only_second"}, "truncation 'only_second', expected one of longest_first"),
    "a length of words": ({"longest": "six"}, "Expected `int`, got `str`"),
    "inputs that are a list": ({"inputs": ["words"]}, "Expected `object`, got `array`"),
    "inputs that are numbers": ({"inputs": {"ids": 3}}, "Expected `str`, got `int`"),
}


@pytest.mark.parametrize(("keys", "match"), TEXTS.values(), ids=TEXTS)
def test_texts(texts, keys, match):
    refused(texts(**keys), match)


def test_a_padding_beyond_all_memory(texts, tiny, edit):
    folder = texts()
    edit(folder, lambda bundle: bundle["axes"].update(length={"shortest": 2**25, "longest": 2**25}))
    refused(folder, "text input 'words': at least 33554432 for each sample, expected at most 16777216")
    edit(tiny, lambda bundle: bundle["inputs"][0].update(shape=["batch", 2**27]))
    edit(tiny, lambda bundle: bundle.update(audio=WAVE))
    refused(tiny, "audio input 'x': at least 134217728 for each sample, expected at most 67108864")


def test_texts_without_a_tokenizer(texts, edit):
    folder = texts()
    edit(folder, lambda bundle: bundle["files"][0].update(role="words"))
    refused(folder, "text without a tokenizer, expected a file with the role 'tokenizer'")
    edit(folder, lambda bundle: bundle.update(files=[]))
    refused(folder, "text without a tokenizer")


WAVE = {"input": "x", "kind": "waveform"}
MEL = {"input": "x", "kind": "log_mel", "samples": 800}
RECORDINGS = {
    "another kind": ({**WAVE, "kind": "mfcc"}, "audio: kind 'mfcc', expected one of log_mel, waveform"),
    "no kind": ({"input": "x"}, "missing required field `kind`"),
    "an unknown input": ({**WAVE, "input": "y"}, "audio input: 'y', expected one of 'x'"),
    "no rate": ({**WAVE, "sample_rate": 0}, "audio: sample_rate 0, expected 1 to"),
    "a mask that is no input": ({**WAVE, "mask": "m"}, "audio mask: 'm', expected one of 'x'"),
    "a mask that is the input": ({**WAVE, "mask": "x"}, "'x': filled 2 times"),
    "a spectrum of two axes": (MEL, "audio input 'x': 2 axes, expected 3"),
}


@pytest.mark.parametrize(("audio", "match"), RECORDINGS.values(), ids=RECORDINGS)
def test_recordings(tiny, edit, audio, match):
    edit(tiny, lambda bundle: bundle.update(audio=audio))
    refused(tiny, match)


SPECTRA = {
    "a spectrum of another size": ({"hop": 200}, r"'x': shape \['batch', 80, 5\], expected .* to take \[80, 4\]"),
    "other bands": ({"mels": 128}, r"expected the last axes to take \[128, 5\]"),
    "no bands": ({"mels": 0}, "audio: mels 0, expected 1 to 1024"),
    "no hop": ({"hop": 0}, "audio: hop 0, expected 1 to"),
    "a hop beyond all": ({"hop": 801}, "audio: hop 801, expected 1 to 800"),
    "no window": ({"window": 1}, "audio: window 1, expected 2 to 65536"),
    "a window beyond all": ({"window": 65_537}, "audio: window 65537, expected 2 to 65536"),
    "no samples": ({"samples": 0}, "audio: samples 0, expected 1 to"),
    "an hour of an hour": ({"samples": 2**27}, "audio: samples 134217728, expected 1 to 67108864"),
    "fewer samples than are mirrored": ({"window": 1600}, "audio: samples 800, expected more than half of the window"),
    "a mask": ({"mask": "x"}, "audio: a mask of log_mel, expected none"),
}


@pytest.mark.parametrize(("keys", "match"), SPECTRA.values(), ids=SPECTRA)
def test_spectra(tiny, edit, keys, match):
    def change(bundle):
        bundle["inputs"][0].update(shape=["batch", 80, 5])
        bundle.update(audio={**MEL, **keys})

    edit(tiny, change)
    for read in (read_bundle, load):
        with pytest.raises(BundleError, match=match):
            read(tiny)


def test_a_spectrum_that_fits(tiny, edit):
    def change(bundle):
        bundle["inputs"][0].update(shape=["batch", 80, "frames"])
        bundle["axes"]["frames"] = {"longest": 5}
        bundle.update(audio=MEL)

    edit(tiny, change)
    bundle = read_bundle(tiny, verify_hashes=False)
    assert bundle.audio is not None and bundle.audio.samples == 800
    edit(tiny, lambda content: content["axes"]["frames"].update(longest=4))
    with pytest.raises(BundleError, match=r"expected the last axes to take \[80, 5\]"):
        read_bundle(tiny)


IMAGE = {"channels": 3, "height": 4, "width": 6}
PICTURES = {
    "another resize": ({"resize": "fill"}, "resize 'fill', expected one of stretch, shortest_edge, none"),
    "another filter": ({"resample": "mitchell"}, "resample 'mitchell', expected one of nearest, box"),
    "another order": ({"order": "gbr"}, "order 'gbr', expected one of rgb, bgr"),
    "one size to stretch to": ({"size": [4]}, r"size \[4\], expected 0 or 2 of 1 to 65536 with resize 'stretch'"),
    "no edge": ({"resize": "shortest_edge"}, r"size \[\], expected 1 of 1 to 65536 with resize 'shortest_edge'"),
    "two edges": ({"resize": "shortest_edge", "size": [4, 5]}, r"size \[4, 5\], expected 1 of"),
    "a size that is not used": ({"resize": "none", "size": [4]}, r"size \[4\], expected 0 of"),
    "an edge of nothing": ({"resize": "shortest_edge", "size": [0]}, r"size \[0\], expected 1 of 1 to"),
    "an edge beyond all": ({"resize": "shortest_edge", "size": [70_000]}, r"size \[70000\], expected 1 of 1 to 65536"),
    "a filter that is a number": ({"resample": 3}, "Expected `str`, got `int`"),
}


@pytest.mark.parametrize(("keys", "match"), PICTURES.values(), ids=PICTURES)
def test_pictures(tiny, edit, keys, match):
    edit(tiny, lambda bundle: bundle["inputs"][0].update(preprocessing={**IMAGE, **keys}))
    refused(tiny, match)


def test_an_input_of_pictures_and_texts(texts, edit):
    folder = texts()
    edit(folder, lambda bundle: bundle["inputs"][0].update(preprocessing=IMAGE))
    refused(folder, "inputs 'words': filled 2 times, expected one of preprocessing, text and audio")


def test_an_output_of_pictures(tiny, edit):
    edit(tiny, lambda bundle: bundle["outputs"][0].update(preprocessing=IMAGE))
    refused(tiny, "outputs .*: preprocessing, expected none, as it is no input")


def test_texts_and_recordings_of_one_input(texts, edit):
    folder = texts()
    edit(folder, lambda bundle: bundle.update(audio={"input": "style", "kind": "waveform", "mask": "mask"}))
    refused(folder, "audio mask: shape .*expected .* as of 'style'")


def test_nothing_else_is_needed_for_texts(texts):
    assert load(texts(), threads=1).bundle.text.inputs == TEXT["inputs"]
