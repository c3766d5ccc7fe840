"""Makes ``fixtures/texts``, a bundle whose inputs have limits: numbers of words, a mask, and fractions beside them.

Run it after a change to the bundle's schema, from the repository's folder:
``python -m tests.runtime.make_text_fixture``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adaptrt.runtime.bundle.bundle_file import Axis, CurvePoint, Dense, Knob, TensorSpec
from tests.runtime.make_staged_fixtures import FIXTURES, f32, make_model, write

_TEXTS = """(int64[batch, length] words, bool[batch, length] mask, float[batch, 2] style, float[1] price)
    => (float[batch, 3] logits, float[batch] macs_fraction)
{
    looked_up = Gather(table, words)
    shape = Shape(words)
    length = Gather(shape, one_long)
    length_scalar = Squeeze(length)
    range = Range(zero_long, length_scalar, step_long)
    places = Gather(positions, range)
    x = Add(looked_up, places)
    real = Cast <to: int = 1> (mask)
    score = ReduceSum <keepdims: int = 0> (x, two_axis)
    above = Greater(score, price)
    gate = Cast <to: int = 1> (above)
    run = Mul(gate, real)
    run_each = Unsqueeze(run, two_axis)
    more = Mul(run_each, gain)
    richer = Add(x, more)
    real_each = Unsqueeze(real, two_axis)
    kept = Mul(richer, real_each)
    pooled = ReduceSum <keepdims: int = 0> (kept, one_axis)
    worded = MatMul(pooled, head)
    styled = MatMul(style, style_head)
    logits = Add(worded, styled)
    runs = ReduceSum <keepdims: int = 0> (run, one_axis)
    run_work = Mul(runs, run_share)
    macs_fraction = Add(run_work, base)
}"""


WORDS, LONGEST = 40, 12
"""Words that ``texts`` knows, and tokens of its longest text."""


def texts_model() -> bytes:
    """The stage of ``texts``."""
    generator = np.random.RandomState(7)
    constants = {
        name: (np.round(generator.standard_normal(shape) * 8) / 8).astype(np.float32)
        for name, shape in (
            ("table", (WORDS, 4)), ("positions", (LONGEST, 4)), ("gain", (4,)), ("head", (4, 3)),
            ("style_head", (2, 3)),
        )
    }  # fmt: skip
    constants |= {"one_axis": np.array([1], np.int64), "two_axis": np.array([2], np.int64)}
    constants |= {"one_long": np.array([1], np.int64), "zero_long": np.array(0), "step_long": np.array(1)}
    return make_model(_TEXTS, constants | {"run_share": f32(0.05), "base": f32(0.3)}, None)


def make_texts(folder: Path) -> None:
    """Write ``texts``."""
    points = [(9.0, 0.3, 0.5), (1.0, 0.5, 0.8), (0.0, 0.6, 0.9), (-9.0, 0.9, 1.0)]
    write(
        folder,
        [texts_model()],
        [None],
        [{}],
        inputs=[
            TensorSpec("words", "int64", ["batch", "length"], minimum=0, maximum=WORDS - 1),
            TensorSpec("mask", "bool", ["batch", "length"]),
            TensorSpec("style", "float32", ["batch", 2]),
        ],
        knobs=[Knob("price", "float32", [1], minimum=-9.0, maximum=9.0, default=-9.0)],
        dense=Dense(macs=100, parameters=120),
        curve=[CurvePoint({"price": price}, share, quality, True) for price, share, quality in points],
        axes={"batch": Axis(0), "length": Axis(1, LONGEST)},
    )


if __name__ == "__main__":
    make_texts(FIXTURES / "texts")
    print(f"wrote {FIXTURES / 'texts'}")
