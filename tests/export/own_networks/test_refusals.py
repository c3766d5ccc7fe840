"""What is refused, with which words: got, expected, and what to do, in one line."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adaptrt import AdaptrtError
from adaptrt.export.errors import ExportError
from adaptrt.export.own.declaration import read_declaration
from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.export.own.own_task import own_task
from adaptrt.export.own.user_module import derived_model
from adaptrt.models import Adaptive, Knob, Leave, take
from adaptrt.models.tasks import TaskError

Named = dict[str, Tensor]


class Plain(Adaptive):
    """Two stages over a set of rows; tests change one thing."""

    axes: Any = {"x": ("batch", "m", 4), "real": ("batch", "m")}
    padding: Any = {"m": "real"}
    stages: Any = 2

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def example(self, batch: int) -> Named:
        return {"x": torch.rand(batch, 12, 4), "real": torch.ones(batch, 12, dtype=torch.bool)}

    def stage(self, number: int, state: Named, knobs: Named) -> Named:
        layer = self.second if number else self.first
        return {**state, "x": layer(state["x"])}

    def leave(self, number: int, state: Named) -> Leave:
        logits = self.head(state["x"].mean(1))
        return Leave({"logits": logits}, logits.amax(1))


def changed(**members: Any) -> Adaptive:
    return type("Mine", (Plain,), members)()  # type: ignore[no-any-return]


def refused(network: object, says: str) -> None:
    with pytest.raises(ExportError, match=says) as refusal:
        derived_model(network, "mine")
    assert "\n" not in str(refusal.value)


def stage_with(change: Callable[[Tensor], Tensor]) -> Callable[..., Named]:
    """A stage that does something more with its rows."""

    def stage(self: Plain, number: int, state: Named, knobs: Named) -> Named:
        after = Plain.stage(self, number, state, knobs)
        return {**after, "x": change(after["x"])}

    return stage


def test_what_is_not_changed_is_taken() -> None:
    assert derived_model(Plain(), "mine").model.stage_names == ["stage_0", "final"]


# ---- data in Python ----


def by_the_sign(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x
    return -x


@pytest.mark.parametrize(
    "change",
    [
        by_the_sign,
        lambda x: x * x.sum().item(),
        lambda x: x[:, : int(x.sum().abs().item()) + 1],
        lambda x: x * float(x.max()),
    ],
)
def test_numbers_read_from_the_data(change: Any) -> None:
    says = (
        r"^got Mine\.stage\(0\) and leave\(0\) with a number read from the data at \S*test_refusals\.py:\d+, expected "
        r"none(: Python decides once, while tracing)?; use torch\.where, take or an exit$"
    )
    refused(changed(stage=stage_with(change)), says)


def test_sizes_read_from_the_data() -> None:
    says = r"with a size that depends on the data \(aten::\w+\) at \S*test_refusals\.py:\d+, expected none; use torch"
    refused(changed(stage=stage_with(lambda x: x + x[x > 0.5].sum())), says)


# ---- axes ----


@pytest.mark.parametrize("size", [lambda x: len(x[0]), lambda x: int(x.shape[1])])
def test_a_frozen_axis(size: Callable[[Tensor], int]) -> None:
    says = (
        r"with the axis 'm' frozen to the example's \d+ at \S*test_refusals\.py:\d+, expected it to stay open; use "
        r"x\.shape\[0\], not len\(x\)"
    )
    refused(changed(stage=stage_with(lambda x: x + torch.arange(size(x))[None, :, None])), says)


def test_a_rule_of_one_size() -> None:
    def change(x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, 2, 4).reshape(x.shape) if x.shape[1] % 2 == 0 else x

    refused(
        changed(stage=stage_with(change)), r"that depends on whether .* of the size of 'm'.*expected one rule for all"
    )


def test_axes_that_have_to_be_of_one_size() -> None:
    axes = {"x": ("batch", "m", 4), "y": ("batch", "n", 4), "real": ("batch", "m")}

    def example(self: Plain, batch: int) -> Named:
        return {**Plain.example(self, batch), "y": torch.rand(batch, 12, 4)}

    def stage(self: Plain, number: int, state: Named, knobs: Named) -> Named:
        after = Plain.stage(self, number, state, knobs)
        return {**after, "x": after["x"] + state["y"]}

    # Each has a size of its own in the trace, so that it cannot go unnoticed.
    refused(
        changed(axes=axes, example=example, stage=stage),
        r"stage\(0\) raised RuntimeError: .* at \S*refusals\.py:\d+; expected it to take named axes of any size",
    )


def test_a_state_without_samples_as_its_first_axis() -> None:
    refused(
        changed(stage=stage_with(lambda x: x.flatten(0, 1))),
        r"gave 'x' of shape \[33, 4\] for 3 samples, expected the samples as its first axis and no other; reshape it",
    )


# ---- outputs ----


def test_output_sizes_that_differ_per_exit() -> None:
    def stage(self: Plain, number: int, state: Named, knobs: Named) -> Named:
        x = Plain.stage(self, number, state, knobs)["x"]
        kept = take(x, x[:, :, 0], above=0.0, valid=state["real"])
        return {"x": kept.rows, "real": kept.valid}

    def leave(self: Plain, number: int, state: Named) -> Leave:
        return Leave({"scores": state["x"][:, :, 0]}, Plain.leave(self, number, state).sure)

    refused(
        changed(stage=stage, leave=leave),
        r"got the output 'scores' of shape \[batch, taken_1\], expected 'batch', then fixed sizes or the inputs' axes, "
        r"the same at every exit; scatter it to an input's axis",
    )


def test_outputs_of_other_names() -> None:
    def leave(self: Plain, number: int, state: Named) -> Leave:
        given = Plain.leave(self, number, state)
        return Leave({f"logits{number}": given.outputs["logits"]}, given.sure)

    refused(
        changed(leave=leave),
        r"leave\(1\) gave logits1 .*, expected logits0 .* as after the stage before; give the same",
    )


@pytest.mark.parametrize(
    ("sure", "says"),
    [
        (lambda _: None, r"leave\(0\) gave sure as nothing, expected float \[batch\]"),
        (lambda x: x[:, None], r"gave sure as float32 \[3, 1\], expected float \[batch\]: one number for each sample"),
        (lambda x: x.long(), r"gave sure as int64 \[3\], expected float \[batch\]"),
        (
            lambda x: x / 0,
            r"gave sure with (inf|nan|-inf) in it, expected finite numbers: a threshold compares with it",
        ),
    ],
)
def test_sure_that_is_no_finite_number(sure: Any, says: str) -> None:
    def leave(self: Plain, number: int, state: Named) -> Leave:
        given = Plain.leave(self, number, state)
        return Leave(given.outputs, sure(given.sure))

    refused(changed(leave=leave), says)


# ---- the batch ----


def test_a_statistic_over_the_batch() -> None:
    says = (
        r"^got logits of Mine after stage 0 in which sample 0 changed by \de-\d\d beside others, expected none to "
        r"depend on its batch; let no rule and no statistic look at the batch"
    )
    refused(changed(stage=stage_with(lambda x: x - x.mean(0, keepdim=True))), says)


def test_a_product_over_the_batch() -> None:
    def change(x: Tensor) -> Tensor:
        flat = x.reshape(x.shape[0], -1)
        return x * ((flat @ flat.transpose(0, 1)) @ flat[:, :1])[:, :, None]

    refused(
        changed(stage=stage_with(change)),
        r"got aten\.matmul at \S*test_refusals\.py:\d+ whose work is not that of one sam",
    )


def test_padding_that_is_not_masked_is_no_matter_of_the_batch() -> None:
    """What a network makes of padding is its own affair, as long as a sample alone makes the same of it."""
    assert derived_model(changed(padding={}), "mine").model.dense_macs() > 0


# ---- nothing adaptive, knobs ----


def test_nothing_adaptive_is_told_before_anything_is_traced() -> None:
    def never(*_: object) -> Named:
        raise AssertionError("it was run")

    refused(
        changed(stages=1, stage=never, example=never),
        r"^Mine has one stage and no knobs, expected something adaptive: .*; give it stages with exits, or a Knob",
    )


def test_a_knob_that_changes_nothing() -> None:
    refused(changed(knobs=[Knob("idle", 0.0, 1.0)]), r"got the knob 'idle', which changes nothing that any stage gives")


def test_an_own_price_with_exits() -> None:
    refused(
        changed(knobs=[Knob("price", 0.0, 1.0)]),
        r"got 'price' in a network with exits, expected a price on the exits' scale, .* which nothing has fitted; call "
        r"it otherwise, and it is swept by its own range",
    )


@pytest.mark.parametrize(
    ("knob", "says"),
    [
        (Knob("keep", 1.0, 0.0), "got the name 'keep', which bundles use for something else; call it otherwise"),
        (Knob("mine", 1.0, 1.0), "expected two finite numbers that differ"),
        (Knob("mine", 1.5, 1.0, whole=True), "whole ones from 0 where it is whole"),
        (Knob("mine", 1.0, 0.0, size=0), "and a size from 1"),
        (Knob("x", 1.0, 0.0), "expected one for each input and knob"),
        ("mine", r"got 'mine', expected Knob\(name, full, least\)"),
    ],
)
def test_wrong_knobs(knob: Any, says: str) -> None:
    refused(changed(knobs=[knob]), says)


# ---- declarations ----


def raising(*_: object) -> Named:
    raise RuntimeError("two\nlines")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"axes": {}}, r"Mine\.axes: got dict, expected the shape of every input, such as"),
        ({"axes": {"x": ("m", 4)}}, r"Mine\.axes\['x'\]: got \('m', 4\), expected 'batch', then sizes or names"),
        ({"axes": {"x": ("batch", 12, 4)}}, r"Mine\.example gave x, real, expected tensors for x as in axes"),
        (
            {"axes": {"x": ("batch", 5, 4), "real": ("batch", "m")}},
            r"example\(2\) gave 'x' as float32 \[2, 12, 4\], expected",
        ),
        ({"padding": {"m": "x"}}, r"Mine\.padding: got 'm' marked by 'x', expected a named axis and an input bool"),
        ({"stages": 0}, r"Mine\.stages: got 0, expected how many there are, from 1"),
        ({"rule": (0.5, 0.5)}, r"Mine\.rule: got 2 thresholds, expected 1: one number for each stage but the last"),
        ({"stage": lambda *_: [1]}, r"stage\(0\) gave list, expected a dictionary of tensors by name"),
        (
            {"stage": lambda *_: {"x": 1}},
            r"stage\(0\) gave 'x' as int, expected a tensor \[batch, \.\.\.\]; keep what is the",
        ),
        ({"leave": lambda *_: None}, r"leave\(0\) gave nothing, expected Leave\(outputs, sure\) with outputs by name"),
        ({"leave": Adaptive.leave}, r"^Mine has no leave, expected each; write it$"),
        ({"knobs": 3}, r"^Mine\.knobs: got int, expected a list of Knob\(name, full, least\)$"),
        ({"padding": 4}, r"^Mine\.padding: got int, expected the marking input of each padded axis, such as"),
        ({"rule": 3}, r"^Mine\.rule: got 3, expected a number for each stage but the last$"),
        ({"rule": ("a",)}, r"^Mine\.rule: got \('a',\), expected a number for each stage but the last$"),
        (
            {"example": raising},
            r"^Mine\.example\(2\) raised RuntimeError: two lines at \S*refusals\.py:\d+; expected tensors",
        ),
        (
            {"__init__": lambda _: None},
            r"^Mine\.__init__ does not call super\(\)\.__init__\(\), expected it to; call it first$",
        ),
        (
            {"stage": lambda *given: {"y": given[2]["x"]}},
            r"^Mine\.leave\(0\) takes 'x', expected one of y: what stage\(0\) gave; at \S*refusals\.py:\d+, give it or",
        ),
        (
            {"stage": lambda *given: {"x": given[2]["z" if given[1] else "x"]}},
            r"^Mine\.stage\(1\) takes 'z', expected one of x: what the stage before handed on; at \S*refusals\.py:\d+",
        ),
        (
            {"stage": lambda *given: {"x": given[2]["x"] * given[3]["dear"]}},
            r"^Mine\.stage\(0\) takes 'dear', expected one of none: the knobs that it declares; at \S*refusals\.py:\d+",
        ),
    ],
)
def test_what_does_not_fit_together(members: dict[str, Any], says: str) -> None:
    refused(changed(**members), says)


def test_something_else_than_a_network() -> None:
    refused(nn.Linear(2, 2), r"got a Linear, expected an adaptrt\.models\.Adaptive; derive from it and write example")


# ---- labels ----


def test_labels_without_a_judge() -> None:
    def leave(self: Plain, number: int, state: Named) -> Leave:
        given = Plain.leave(self, number, state)
        return Leave({"depth": given.outputs["logits"]}, given.sure)

    task = own_task(changed(leave=leave), ["depth"])
    says = "got labels and no judge for the outputs depth of Mine, expected judge, or an output logits .*; write judge"
    with pytest.raises(TaskError, match=says):
        task.judge({"depth": np.zeros((2, 3), np.float32)}, np.zeros(2, np.int64))


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        (
            lambda _o, _t: (np.zeros(3), np.zeros(2)),
            r"gave quality of shape \[3\], expected a finite number for each of 2",
        ),
        (lambda _o, _t: (np.zeros(2), np.full(2, np.nan)), "gave loss of shape .*, expected a finite number"),
        (lambda _o, _t: 1 / 0, "judge raised ZeroDivisionError: division by zero; expected quality and loss"),
    ],
)
def test_a_judge_that_gives_no_numbers(judge: Any, says: str) -> None:
    task = own_task(changed(judge=judge), ["depth"])
    with pytest.raises(TaskError, match=says):
        task.judge({"depth": np.zeros((2, 3), np.float32)}, np.zeros(2, np.int64))


def test_a_judge_may_be_a_function_or_a_method() -> None:
    def function(outputs: Any, targets: Any) -> Any:
        return outputs["depth"][:, 0], targets["labels"].astype(float)

    def method(self: Plain, outputs: Any, targets: Any) -> Any:  # noqa: ARG001
        return function(outputs, targets)

    for judge in (function, method, staticmethod(function)):
        task = own_task(changed(judge=judge), ["depth"])
        judged = task.judge({"depth": np.ones((2, 3), np.float32)}, np.array([4, 5]))
        assert judged.quality.tolist() == [1, 1] and judged.loss.tolist() == [4, 5]


def test_errors_are_of_the_kind_that_the_command_line_tells_in_one_line() -> None:
    assert issubclass(ExportError, AdaptrtError)
    assert read_declaration(Plain()).sizes == {"m": 12}
    assert DerivedNetwork(Plain()).dense_macs() == 2 * 12 * 16 + 12
