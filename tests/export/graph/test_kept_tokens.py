"""Graphs whose token counts are known only when they run: tracing, stand-ins taken out, execution."""

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.bodies import adaptive_nodes, attach_bodies
from adaptrt.export.graph.kept_tokens import resolve_kept
from adaptrt.models.symbolic.dynamic_sizes import dynamic_sizes
from adaptrt.models.symbolic.segment_reduce import segment_reduce
from adaptrt.models.symbolic.select_tokens import select_tokens

NAMES = ["logits", "index", "count", "again", "pooled", "number", "fused"]
STAND_INS = ["kept_size_0", "kept_size_1", "pooled_size"]


class Network(nn.Module):
    """Linear, selection, attention, linear, selection, pooling of pairs: three sizes that depend on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.score = nn.Linear(8, 12), nn.Linear(12, 4), nn.Linear(12, 1)

    def forward(self, x: Tensor, price: Tensor, *stand_ins: Tensor) -> tuple[Tensor, ...]:
        if not stand_ins:
            return self.compute(x, price)
        with dynamic_sizes(stand_ins):
            return self.compute(x, price)

    def compute(self, x: Tensor, price: Tensor) -> tuple[Tensor, ...]:
        x = self.up(x)
        batch, tokens, _ = x.shape
        first = (torch.arange(tokens) == 0).expand(batch, -1)
        valid = torch.ones(batch, tokens, dtype=torch.bool)
        threshold = price.expand(batch)
        chosen = select_tokens(x, self.score(x)[..., 0], valid, first, threshold, 1, tokens)
        y, length = chosen.y, chosen.y.shape[1]
        valid = torch.arange(length) < chosen.count[:, None]
        heads = y.reshape(batch, length, 3, 4).transpose(1, 2)
        scores = (heads @ heads.transpose(2, 3)).masked_fill(~valid[:, None, None], -1e9)
        y = (scores.softmax(-1) @ heads).transpose(1, 2).reshape(-1, 12)
        score = self.score(y).reshape(batch, length)
        logits = self.down(y).reshape(batch, length, 4) * valid[:, :, None]
        # The second selection takes half of the price's distance, and at most three tokens.
        again = select_tokens(logits, score, valid, torch.zeros_like(valid), threshold / 2, 0, 3)
        segment = torch.where(valid, torch.arange(length) // 2, -1).to(torch.int32)
        segments = (chosen.count.max() + 1) // 2
        pooled, number = segment_reduce(logits, segment, None, segments, "mean")
        fused, _ = segment_reduce(logits, torch.where(valid, 0, -1).to(torch.int32), score.abs(), 1, "mean")
        return logits, chosen.index, chosen.count, again.y, pooled, number, fused


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def traced(network: Network) -> onnx.ModelProto:
    example = (torch.randn(3, 7, 8), torch.tensor([9.0]), torch.zeros(5), torch.zeros(11), torch.zeros(13))
    dim = torch.export.Dim
    return trace(
        network, example, ({0: dim("batch"), 1: dim("tokens")}, None, tuple({0: dim(name)} for name in STAND_INS))
    )


def trace(network: nn.Module, example: tuple[Tensor, ...], shapes: tuple[Any, ...]) -> onnx.ModelProto:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=20,
            input_names=["x", "price", *STAND_INS],
            output_names=NAMES,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    model.ir_version = 10
    return model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.fixture(scope="module")
def session(traced: onnx.ModelProto) -> onnxruntime.InferenceSession:
    model = copied(traced)
    resolve_kept(model, STAND_INS)
    assert attach_bodies(model) == {"SelectTokens": 1, "SegmentReduce": 1}
    assert [value.name for value in model.graph.input] == ["x", "price"]
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("price", [-9.0, -0.3, 0.0, 0.4, 9.0])
@pytest.mark.parametrize(("batch", "tokens"), [(3, 7), (1, 7), (2, 30), (64, 12), (5, 1)])
def test_the_graph_follows_the_number_kept(
    network: Network, session: onnxruntime.InferenceSession, batch: int, tokens: int, price: float
) -> None:
    x = torch.randn(batch, tokens, 8, generator=torch.Generator().manual_seed(batch))
    with torch.no_grad():
        wanted = network(x, torch.tensor([price]))
    got = session.run(None, {"x": x.numpy(), "price": np.array([price], np.float32)})
    for name, one, other in zip(NAMES, got, wanted, strict=True):
        assert one.shape == tuple(other.shape), name
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5, err_msg=name)
    longest = {-9.0: tokens, 9.0: 1}.get(price)
    assert longest is None or got[1].shape == (batch, longest)


def test_an_empty_batch(session: onnxruntime.InferenceSession) -> None:
    got = session.run(None, {"x": np.zeros((0, 4, 8), np.float32), "price": np.zeros(1, np.float32)})
    assert got[0].shape == (0, 0, 4) and got[2].shape == (0,)


def test_a_stand_in_is_found_by_its_size_not_by_its_place(traced: onnx.ModelProto) -> None:
    forwards, backwards = copied(traced), copied(traced)
    resolve_kept(forwards, STAND_INS)
    resolve_kept(backwards, STAND_INS[::-1])
    assert forwards.SerializeToString(deterministic=True) == backwards.SerializeToString(deterministic=True)


def test_an_export_without_a_stand_in_says_so(network: Network) -> None:
    example = (torch.randn(3, 7, 8), torch.zeros(1))
    with pytest.raises(Exception, match="select_tokens is traced outside of adaptrt's export, expected stand-ins"):
        torch.onnx.export(network, example, dynamo=True, verbose=False)


def test_more_sizes_than_were_counted_are_refused(network: Network) -> None:
    with dynamic_sizes() as counted:
        network(torch.randn(3, 7, 8), torch.zeros(1))
    assert counted.calls == len(STAND_INS)
    example = (torch.randn(3, 7, 8), torch.zeros(1), torch.zeros(5), torch.zeros(11))
    dim = torch.export.Dim
    shapes = ({0: dim("batch"), 1: dim("tokens")}, None, tuple({0: dim(name)} for name in STAND_INS[:2]))
    with pytest.raises(Exception, match="makes size 3 that depends on the data, expected 2 such sizes in all"):
        torch.onnx.export(network, example, dynamo=True, dynamic_shapes=shapes, verbose=False)


def with_node(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    copy = copied(model)
    copy.graph.node.append(node)
    return copy


def test_a_stand_in_that_is_used_for_more_than_its_size(traced: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match=r"kept_size_1 is read by Neg '', expected that only its size is used"):
        resolve_kept(with_node(traced, helper.make_node("Neg", ["kept_size_1"], ["negated"])), STAND_INS)
    beyond = helper.make_node("Shape", ["kept_size_1"], ["nothing"], start=1)
    with pytest.raises(ExportError, match=r"kept_size_1 is read by Shape"):
        resolve_kept(with_node(traced, beyond), STAND_INS)
    inner = helper.make_graph([helper.make_node("Neg", ["kept_size_0"], ["inner"])], "inner", [], [])
    branch = helper.make_node("If", ["condition"], ["either"], then_branch=inner, else_branch=inner)
    with pytest.raises(ExportError, match=r"kept_size_0 is read by If"):
        resolve_kept(with_node(traced, branch), STAND_INS)


def test_stand_ins_that_do_not_fit(traced: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match=r"kept_size_7 is no input of the graph, expected one of x, price"):
        resolve_kept(copied(traced), ["kept_size_7"])
    with pytest.raises(ExportError, match=r"x has shape \['batch', 'tokens', 8\], expected one dynamic dimension"):
        resolve_kept(copied(traced), ["x"])
    with pytest.raises(ExportError, match=r"price has shape \[1\], expected one dynamic dimension"):
        resolve_kept(copied(traced), ["price"])
    with pytest.raises(ExportError, match=r"SelectTokens .* has no stand-in for its size among \['kept_size_0'"):
        resolve_kept(copied(traced), ["kept_size_0", "pooled_size"])
    unowned = copied(traced)
    unowned.graph.input.append(helper.make_tensor_value_info("spare", TensorProto.FLOAT, ["spare"]))
    with pytest.raises(ExportError, match="spare stands for the size of 0 outputs, expected 1"):
        resolve_kept(unowned, ["spare"])


class Shared(nn.Module):
    """Two selections that were given the same stand-in, though they may keep different numbers."""

    def forward(self, x: Tensor, price: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        valid = torch.ones_like(x[..., 0], dtype=torch.bool)
        with dynamic_sizes([kept, kept]):
            one = select_tokens(x, x[..., 0], valid, ~valid, price.expand(x.shape[0]), 0, 9)
            two = select_tokens(x, x[..., 1], valid, ~valid, price.expand(x.shape[0]), 0, 9)
        return one.y, two.y


def test_a_stand_in_for_two_selections_is_refused() -> None:
    dim = torch.export.Dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Shared(),
            (torch.randn(3, 7, 8), torch.zeros(1), torch.zeros(5)),
            dynamo=True,
            input_names=["x", "price", "kept"],
            dynamic_shapes=({0: dim("batch")}, None, {0: dim("kept")}),
            verbose=False,
        )
    assert program is not None
    with pytest.raises(ExportError, match="kept stands for the size of 2 outputs, expected 1"):
        resolve_kept(program.model_proto, ["kept"])


def test_a_size_that_is_needed_for_itself_is_refused(traced: onnx.ModelProto) -> None:
    model = copied(traced)
    node = next(node for node in model.graph.node if node.op_type == "SelectTokens")
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["kept_size_0"], ["own_size_1"]),
            helper.make_node("Squeeze", ["own_size_1"], ["own_size"]),
        ]
    )
    node.input[6] = "own_size"
    with pytest.raises(ExportError, match="needs a number of kept tokens that is not known before it"):
        resolve_kept(model, STAND_INS)


def reductions(*modes: str, **attributes: str) -> onnx.ModelProto:
    """One SegmentReduce per mode, with a fixed number of segments."""
    value = helper.make_tensor_value_info
    names = ["x", "segment", "weight", "segments"]
    inputs = [
        value("x", TensorProto.FLOAT, ["G", "T", 4]),
        value("segment", TensorProto.INT32, ["G", "T"]),
        value("weight", TensorProto.FLOAT, ["G", "T"]),
        value("segments", TensorProto.INT64, []),
    ]
    nodes = [
        helper.make_node("SegmentReduce", names, [f"y{i}", f"n{i}"], domain="adaptrt", mode=mode, **attributes)
        for i, mode in enumerate(modes)
    ]
    outputs = [value(f"y{i}", TensorProto.FLOAT, ["G", "S", 4]) for i in range(len(modes))]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("adaptrt", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=opsets, ir_version=10)


def test_the_mode_stays_with_the_node() -> None:
    model = reductions("last", "last")
    assert attach_bodies(model) == {"SegmentReduce": 1}
    assert attach_bodies(model) == {"SegmentReduce": 1}  # once more changes nothing
    for node in adaptive_nodes(model):
        found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert found == {"mode": b"last", "plugin_namespace": b"adaptrt", "plugin_version": b"1"}
    assert [function.name for function in model.functions] == ["SegmentReduce"]


def test_one_file_has_one_mode() -> None:
    with pytest.raises(ExportError, match="got SegmentReduce with mean and with last mode in one model"):
        attach_bodies(reductions("mean", "last"))
    with pytest.raises(ExportError, match="got mode 'median', expected one of sum, mean, last"):
        attach_bodies(reductions("median"))


def test_nodes_that_do_not_fit_their_record_are_refused() -> None:
    with pytest.raises(ExportError, match="SegmentReduce has attribute 'order', expected mode"):
        attach_bodies(reductions("mean", order="falling"))
    model = reductions("mean")
    model.graph.node[0].input[2] = ""
    with pytest.raises(ExportError, match="expected all of x, segment, weight, segments"):
        attach_bodies(model)
