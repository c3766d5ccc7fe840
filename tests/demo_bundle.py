"""Small bundles for tests of the demo page.

    python -m tests.demo_bundle FOLDER

writes ``text``, which takes texts, with decisions and a dense model, and whose class names and one of whose words are
what an attacker would write; and ``staged``, pictures with gates, selections of tokens and an exit.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgspec
import numpy as np

from adaptrt.runtime.bundle.bundle_file import (
    Axis,
    CurvePoint,
    DecisionSpec,
    Dense,
    Knob,
    PreprocessingFile,
    TensorSpec,
    TextPreprocessing,
    TokenSet,
    encode_bundle,
    read_bundle,
)
from tests.runtime.make_staged_fixtures import f32, make_model, write
from tests.runtime.preprocessing.word_tokenizer import WORDS, tokenizer_json
from tests.staged_bundle import write_staged

ATTACK = "<img/src=x/onerror=document.title='taken'>"
CLASSES = ["<b>one</b>", "two", ATTACK]
LONGEST = 8

_POOLED = """
    real = Cast <to: int = 1> (mask)
    looked_up = Gather(table, words)
"""
_STAGE = (
    """(int64[batch, length] words, bool[batch, length] mask, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction, int32[batch, length] runs)
{"""
    + _POOLED
    + """
    score = ReduceSum <keepdims: int = 0> (looked_up, two_axis)
    above = Greater(score, price)
    gate = Cast <to: int = 1> (above)
    run = Mul(gate, real)
    runs = Cast <to: int = 6> (run)
    run_each = Unsqueeze(run, two_axis)
    kept = Mul(looked_up, run_each)
    pooled = ReduceSum <keepdims: int = 0> (kept, one_axis)
    logits = MatMul(pooled, head)
    there = ReduceSum <keepdims: int = 0> (real, one_axis)
    ran = ReduceSum <keepdims: int = 0> (run, one_axis)
    share = Div(ran, there)
    scaled = Mul(share, gate_share)
    macs_fraction = Add(scaled, base)
}"""
)
_DENSE = (
    """(int64[batch, length] words, bool[batch, length] mask) => (float[batch, 3] logits)
{"""
    + _POOLED
    + """
    real_each = Unsqueeze(real, two_axis)
    kept = Mul(looked_up, real_each)
    pooled = ReduceSum <keepdims: int = 0> (kept, one_axis)
    logits = MatMul(pooled, head)
}"""
)


def make_text_bundle(folder: Path) -> None:
    """Write the bundle."""
    generator = np.random.RandomState(5)
    sizes = {"table": (len(WORDS), 4), "head": (4, 3)}
    constants = {
        name: np.round(generator.standard_normal(size) * 4).astype(np.float32) / 4 for name, size in sizes.items()
    }
    axes = {"one_axis": np.array([1], np.int64), "two_axis": np.array([2], np.int64)}
    dense = make_model(_DENSE, {**constants, **axes}, None)
    stage = make_model(_STAGE, {**constants, **axes, "gate_share": f32(0.7), "base": f32(0.3)}, None)
    decision = DecisionSpec("learners", 0, {"runs": "runs"}, flat=False)
    points = [(9.0, 0.3, 0.4), (0.5, 0.5, 0.7), (-0.5, 0.8, 0.9), (-9.0, 1.0, 1.0)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dense.onnx").write_bytes(dense)
    words = [*WORDS[:-1], ATTACK]
    content = tokenizer_json(words)
    (folder / "tokenizer.json").write_bytes(content)
    write(
        folder,
        [stage],
        [None],
        [{"decisions": [decision]}],
        inputs=[
            TensorSpec("words", "int64", ["batch", "length"], minimum=0, maximum=len(WORDS) - 1),
            TensorSpec("mask", "bool", ["batch", "length"]),
        ],
        knobs=[Knob("price", "float32", [1], minimum=-9.0, maximum=9.0, default=-9.0)],
        dense=Dense(100, 120, 1.0, file="dense.onnx", sha256=hashlib.sha256(dense).hexdigest()),
        curve=[CurvePoint({"price": price}, share, quality, True) for price, share, quality in points],
        axes={"batch": Axis(0), "length": Axis(1, LONGEST)},
        tokens={"tokens": TokenSet("length")},
        ops={"ConditionalMLP": 1},
        files=[PreprocessingFile("tokenizer.json", hashlib.sha256(content).hexdigest(), "tokenizer")],
        text=TextPreprocessing({"ids": "words", "mask": "mask"}, LONGEST, padding_token="[PAD]"),
        class_names=CLASSES,
    )
    bundle = read_bundle(folder)
    (folder / "bundle.json").write_bytes(encode_bundle(msgspec.structs.replace(bundle, data={"name": "words"})))


if __name__ == "__main__":
    make_text_bundle(Path(sys.argv[1]) / "text")
    write_staged(Path(sys.argv[1]) / "staged")
