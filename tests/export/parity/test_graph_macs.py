"""Work counted from the graphs: by hand, as every kind of model counts it, and that wrong counts are noticed."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper

from adaptrt.export.calibration.evaluations import untold
from adaptrt.export.errors import ParityError
from adaptrt.export.graph.stage_files import trace_stages
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.parity.graph_macs import (
    WORK_TOLERANCE,
    WorkCheck,
    check_dense_macs,
    check_work,
    count_dense_macs,
    count_macs,
)
from adaptrt.export.parity.stage_graphs import StageFile
from adaptrt.models import Network
from adaptrt.models.adapters.resnet import ResNet
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.ops import CONDITIONAL_GLUS, RECORDS, OpRecord
from tests.export.conftest import SHAPE
from tests.export.parity.test_families import ACM, family_model
from tests.export.parity.test_parity import staged
from tests.models.adapters.test_resnet import TINY as RESNET
from tests.models.adapters.test_text_encoder import TINY as TEXT

SAMPLES = 5
KINDS = ("all", "ToMe", "text", "EViT", "residual", "residual, certainty")


def text_model(depth: int, **families: Any) -> Network:
    torch.manual_seed(0)
    model = Network.from_config(dataclasses.replace(TEXT, depth=depth, **families)).eval()
    for name, parameter in model.named_parameters():
        if ("gate." in name or "selector." in name) and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7)
    return model


def build(kind: str) -> StagedNetwork:
    if kind == "all":
        pruning, exits = PruningConfig((0,)), ExitConfig((1,), "entropy")
        return family_model(image_size=6, depth=2, acm=ACM, pruning=pruning, exits=exits, hard_budgets=True)
    if kind == "ToMe":
        return family_model(image_size=6, depth=1, pruning=PruningConfig((0,), "merge"))
    if kind == "text":
        return text_model(1, acm=ACM, pruning=PruningConfig((0,)))
    if kind == "EViT":  # texts that are too short for it have no token to fuse
        return text_model(2, pruning=PruningConfig((0,), "fixed"))
    criterion = "certainty" if "certainty" in kind else "max_softmax"
    return ResNet(dataclasses.replace(RESNET, widths=(4,), blocks=(2,), exits=ExitConfig((1,), criterion))).eval()


@dataclasses.dataclass(frozen=True)
class Traced:
    """A model, its graphs, and what its work is counted at."""

    model: StagedNetwork
    stages: Sequence[StageFile]
    inputs: dict[str, np.ndarray]
    settings: list[dict[str, Any]]

    def check(self, stages: Sequence[StageFile] | None = None) -> WorkCheck:
        return check_work(stages or self.stages, self.inputs, self.settings, self.model.dense_macs())


def counted_at(model: StagedNetwork, stages: Sequence[StageFile]) -> Traced:
    """Samples, and settings from everything, where all knobs stand at their defaults, to as little as may be."""
    specs = {spec.name: spec for spec in model.knob_specs()}
    everything: dict[str, Any] = {name: [spec.default] * spec.shape[0] for name, spec in specs.items()}
    settings = [everything]
    for share in (0.1, 0.3, 0.6, 1.0):
        if price := specs.get("price"):
            settings.append({**everything, "price": price.minimum + share * (price.maximum - price.minimum)})
        hard = {name: spec for name, spec in specs.items() if name in ("capacity", "keep")}
        numbers = {name: [int((1 - share) * spec.maximum)] * spec.shape[0] for name, spec in hard.items()}
        settings += [{**everything, **numbers}] * bool(hard)
    torch.manual_seed(0)
    inputs = {name: tensor.numpy() for name, tensor in model.example_inputs(SAMPLES).items()}
    return Traced(model, stages, inputs, settings)


@pytest.fixture(scope="session")
def acms(model: Network, graph: onnx.ModelProto) -> Traced:
    return counted_at(model, staged(graph))


@functools.cache
def traced(kind: str) -> Traced:
    model = build(kind)
    return counted_at(model, trace_stages(model, debug=False, progress=untold)[0])


@functools.cache
def dense(kind: str) -> tuple[StagedNetwork, onnx.ModelProto, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    model: StagedNetwork = (
        Network.from_config(dataclasses.replace(SHAPE, depth=1)).eval() if kind == "vision" else text_model(1)
    )
    inputs = {name: tensor.numpy() for name, tensor in model.example_inputs(1).items()}
    if "mask" in inputs:
        inputs["mask"] = np.ones((1, TEXT.length), bool)
    return model, trace_dense(model), inputs


@pytest.mark.parametrize("kind", KINDS)
def test_models_count_what_their_graphs_compute(kind: str) -> None:
    case = traced(kind)
    found = case.check()
    shares = len(case.settings) * SAMPLES * len(case.stages)
    assert found.compared == shares and found.max_error <= WORK_TOLERANCE / 2
    assert found.batched > 0.9 * shares and found.batched + found.differing == shares


def test_acms_count_what_their_graphs_compute(acms: Traced) -> None:
    assert acms.check().compared == len(acms.settings) * SAMPLES
    one = {name: array[:1] for name, array in acms.inputs.items()}
    works = [count_macs(acms.stages, one, setting)[0] for setting in acms.settings]
    assert works[0] == acms.model.dense_macs() + gate_macs(acms.model)
    assert works == sorted(works, reverse=True) and works[-1] < works[0]


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_dense_models_count_what_their_graphs_compute(kind: str) -> None:
    model, graph, inputs = dense(kind)
    assert count_dense_macs(graph, inputs) == model.dense_macs()
    check_dense_macs(graph, inputs, model.dense_macs())
    off = round(1.01 * model.dense_macs())
    says = f"has {off} multiply-accumulates by its own count, expected {model.dense_macs()} as counted from its graph's"
    with pytest.raises(ParityError, match=says):
        check_dense_macs(graph, inputs, off)


def gate_macs(model: Any) -> int:
    """What the gates of all tokens cost."""
    return int(sum(gate.macs_per_token for gate in model.gates()) * model.tokens)


# ---- wrong counts ----


def miscounted(stage: StageFile, formula: str, **constants: float) -> StageFile:
    """A stage that gives another ``macs_fraction``, made from the true one, ``truth``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(stage.graph)
    for node in copy.graph.node:
        for names in (node.input, node.output):
            names[:] = ["truth" if name == "macs_fraction" else name for name in names]
    copy.graph.node.extend(onnx.parser.parse_graph(f"g () => () {{ {formula} }}").node)
    for name, value in constants.items():
        copy.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return dataclasses.replace(stage, graph=copy)


def test_a_constant_count_is_noticed(acms: Traced) -> None:
    formula = "nothing = Mul(truth, zero) macs_fraction = Add(nothing, tenth)"
    says = r"^macs_fraction says 0\.1 of the dense work at price \S+, sample 0, expected 1\.\d+ as counted from"
    with pytest.raises(ParityError, match=says):
        acms.check([miscounted(acms.stages[0], formula, zero=0, tenth=0.1)])


def test_a_count_that_forgets_the_gates_is_noticed(acms: Traced) -> None:
    gates = gate_macs(acms.model) / acms.model.dense_macs()
    wrong = miscounted(acms.stages[0], "macs_fraction = Sub(truth, gates)", gates=gates)
    with pytest.raises(
        ParityError, match=r"says (1|0\.9999)\S* of the dense work at price \S+, sample 0, expected 1\."
    ):
        acms.check([wrong])


def test_learners_counted_as_all_are_noticed(acms: Traced) -> None:
    """Where everything runs that count is right, so it is noticed from the second setting on."""
    model: Any = acms.model
    learners, dense_macs = model.blocks[-1].ffn.learners, model.dense_macs()
    formula = f"""
        shape = Constant <value = int64[2] {{-1, {model.tokens}}}> ()
        axis = Constant <value = int64[1] {{1}}> ()
        k = Cast <to = 1> (learners_{len(model.gates()) - 1})
        of_samples = Reshape (k, shape)
        ran = ReduceSum <keepdims = 0> (of_samples, axis)
        rest = Sub (all, ran)
        more = Mul (rest, per_run)
        macs_fraction = Add (truth, more)
    """
    constants = {"all": learners.learners * model.tokens, "per_run": learners.macs_per_run / dense_macs}
    wrong = [miscounted(acms.stages[0], formula, **constants)]
    check_work(wrong, acms.inputs, acms.settings[:1], dense_macs)
    with pytest.raises(ParityError, match="mend the model's count of its work"):
        acms.check(wrong)


def test_a_forgotten_stage_is_noticed() -> None:
    case = traced("all")
    wrong = [*case.stages[:-1], miscounted(case.stages[-1], "macs_fraction = Sub(truth, macs_before)")]
    with pytest.raises(ParityError, match=r"at price 0, token_price -1, .*, stage 2 of 2, sample 0, expected 1\."):
        case.check(wrong)


def test_counted_padding_is_noticed() -> None:
    """Alone a text has no padding, in a batch it has."""
    case = traced("text")
    formula = """
        real = Cast <to = 1> (mask)
        padding = Sub(one, real)
        row = Constant <value = int64[1] {1}> ()
        places = ReduceSum <keepdims = 0> (padding, row)
        more = Mul(places, little)
        macs_fraction = Add(truth, more)
    """
    wrong = [miscounted(case.stages[0], formula, one=1, little=1e-3), *case.stages[1:]]
    with pytest.raises(ParityError, match=r"sample \d of a batch, expected \S+ as for the sample alone"):
        case.check(wrong)


def test_a_share_that_is_no_number_is_noticed() -> None:
    case = traced("residual")
    with pytest.raises(ParityError, match="macs_fraction says nan"):
        case.check([miscounted(case.stages[0], "macs_fraction = Mul(truth, odd)", odd=float("nan")), *case.stages[1:]])


# ---- what counts, by hand ----


def by_hand(text: str, inputs: Mapping[str, np.ndarray], weights: Mapping[str, Sequence[int]], **knobs: Any) -> int:
    """Count a graph written down; weights are of the given shapes."""
    header = '<ir_version: 10, opset_import: ["" : 20, "adaptrt" : 1]>'
    model = onnx.parser.parse_model(f"{header}\n{text}")
    generator = np.random.default_rng(0)
    for name, shape in weights.items():
        array = generator.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    before = model.SerializeToString()
    (work,) = count_macs([StageFile(model, [], [])], inputs, knobs)
    assert model.SerializeToString() == before
    return work


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("node", "shape", "weight", "expected"),
    [
        ("MatMul (x, w)", (1, 5, 4), (4, 3), 5 * 4 * 3),
        ("MatMul (w, x)", (1, 5, 4), (7, 5), 7 * 5 * 4),
        ("MatMul (x, w)", (1, 4), (4,), 4),
        ("Gemm (x, w)", (1, 4), (4, 3), 4 * 3),
        ("Gemm <transB = 1> (x, w)", (1, 4), (3, 4), 4 * 3),
        ("Gemm <transA = 1> (x, w)", (1, 4), (1, 3), 4 * 3),
        ("Conv <pads = [1, 1, 1, 1]> (x, w)", (1, 4, 6, 6), (8, 4, 3, 3), 6 * 6 * 8 * 4 * 9),
        ("Conv <group = 2, strides = [2, 2]> (x, w)", (1, 4, 6, 6), (8, 2, 2, 2), 3 * 3 * 8 * 2 * 4),
        ("ConvTranspose <strides = [2, 2]> (x, w)", (1, 4, 3, 3), (4, 5, 2, 2), 3 * 3 * 4 * 5 * 4),
        ('Einsum <equation = "bik, kj -> bij"> (x, w)', (1, 5, 4), (4, 3), 5 * 4 * 3),
        ("Mul (x, w)", (1, 4), (4,), 0),
        ("Softmax (x)", (1, 4), (4,), 0),
    ],
)
def test_products_by_hand(node: str, shape: tuple[int, ...], weight: tuple[int, ...], expected: int) -> None:
    axes = ", ".join(f"d{axis}" for axis in range(len(shape)))
    text = f"g (float[{axes}] x) => (float y) {{ y = {node} }}"
    assert by_hand(text, {"x": drawn(*shape)}, {"w": weight}) == expected


def test_bookkeeping_and_what_is_the_same_for_every_sample_count_nothing() -> None:
    text = """g (float[batch, 4] x, float[2, 4] knob) => (float y, float macs_fraction) {
        same = MatMul (knob, w)
        scaled = MatMul (same, v)
        sizes = Shape (x)
        numbers = Cast <to = 1> (sizes)
        of_sizes = MatMul (numbers, knob)
        product = MatMul (x, w)
        halved = Add (product, of_sizes)
        some = ReduceSum <keepdims = 0> (scaled)
        y = Add (halved, some)
        count = MatMul (x, w)
        macs_fraction = ReduceSum <keepdims = 0> (count)
    }"""
    weights = {"w": (4, 4), "v": (4, 3)}
    assert by_hand(text, {"x": drawn(1, 4)}, weights, knob=drawn(2, 4)) == 4 * 4


@pytest.mark.parametrize("op", [record for record in RECORDS.values() if "N" in record.axes], ids=lambda op: op.name)
def test_learners_by_hand(op: OpRecord) -> None:
    """Of three learners tokens run as many as ``k`` says, within 0 to 3."""
    rows, width, hidden, out = 6, 6, 2, 5
    shapes = {"w1": (3, width, hidden), "v1": (3, width, hidden), "w2": (3, hidden, out), "b2": (out,)}
    weights = {field.name: shapes.get(field.name, (3, hidden)) for field in op.inputs[2:]}
    text = f"""g (float[batch, t, {width}] x, int32[batch, t] k) => (float y) {{
        rows = Constant <value = int64[2] {{-1, {width}}}> ()
        flat = Constant <value = int64[1] {{-1}}> ()
        tokens = Reshape (x, rows)
        runs = Reshape (k, flat)
        y = adaptrt.{op.name} (tokens, runs, {", ".join(weights)})
    }}"""
    inputs = {"x": drawn(1, rows, width), "k": np.array([[0, 1, 2, 3, 7, -1]], np.int32)}
    per_run = hidden * (2 * width + out) if op in CONDITIONAL_GLUS else hidden * (width + out)
    assert by_hand(text, inputs, weights) == (0 + 1 + 2 + 3 + 3 + 0) * per_run


@pytest.mark.parametrize("length", [1, 5, TEXT.length])
@pytest.mark.parametrize("keep", [-1, 0, 4, TEXT.length - 1, TEXT.length])
def test_an_empty_fused_token_costs_nothing(length: int, keep: int) -> None:
    """Where EViT drops nothing its fused token is there, and empty."""
    case = traced("EViT")
    one = {"tokens": np.arange(length, dtype=np.int64)[None], "mask": np.ones((1, length), bool)}
    width, hidden = TEXT.width, TEXT.ffn_width
    left = length if keep < 0 else min(max(keep, 1), length)
    after = left + (left < length)
    attention = [tokens * 4 * width**2 + tokens**2 * 2 * width for tokens in (length, after)]
    expected = sum(attention) + 2 * after * 2 * width * hidden + width * TEXT.classes
    assert count_macs(case.stages, one, {"keep": [keep]}) == [expected]


def test_padding_that_inputs_mark_is_cut_out() -> None:
    case = traced("text")
    words = np.arange(TEXT.length, dtype=np.int64)[None]
    place = np.arange(TEXT.length)
    # The first token always is real.
    for mask, real in ((place < 5, place[:5]), (place % 2 == 1, [0, *place[1::2]]), (place < 0, place[:1])):
        cut = {"tokens": words[:, real], "mask": np.ones((1, len(real)), bool)}
        padded = {"tokens": words, "mask": mask[None]}
        assert count_macs(case.stages, padded, case.settings[0]) == count_macs(case.stages, cut, case.settings[0])


def test_bodies_make_no_difference() -> None:
    case = traced("all")
    bare = []
    for stage in case.stages:
        copy = onnx.ModelProto()
        copy.CopyFrom(stage.graph)
        del copy.functions[:]
        bare.append(dataclasses.replace(stage, graph=copy))
    one = {name: array[1:2] for name, array in case.inputs.items()}
    for setting in case.settings[2:4]:
        assert count_macs(bare, one, setting) == count_macs(case.stages, one, setting)


# ---- what is refused ----


def test_samples_are_counted_one_by_one() -> None:
    case = traced("residual")
    with pytest.raises(ParityError, match="got 5 samples in pixels, expected 1; count them one by one"):
        count_macs(case.stages, case.inputs, {})
    model, graph, inputs = dense("vision")
    with pytest.raises(ParityError, match="got 0 samples in pixels"):
        check_dense_macs(graph, {"pixels": inputs["pixels"][:0]}, model.dense_macs())


@pytest.mark.parametrize(("samples", "settings"), [(0, 1), (1, 0)])
def test_nothing_compared_is_a_failure(samples: int, settings: int) -> None:
    case = traced("residual")
    inputs = {name: array[:samples] for name, array in case.inputs.items()}
    with pytest.raises(ParityError, match=f"got {settings} settings and {samples} samples to count work at"):
        check_work(case.stages, inputs, case.settings[:settings], case.model.dense_macs())


def test_a_knob_without_a_value_is_named() -> None:
    case = traced("all")
    one = {name: array[:1] for name, array in case.inputs.items()}
    with pytest.raises(ParityError, match="got no value for token_price, capacity, keep, expected one for each input"):
        count_macs(case.stages, one, {"price": 0.5})


@pytest.mark.parametrize(
    "node",
    [
        "MatMulInteger (x, x)",
        'Einsum <equation = "...i, ij -> ...j"> (x, x)',
        'Einsum <equation = "ai, ij, jk -> ak"> (x, x, x)',
        "com.example.Fused (x)",
        "adaptrt.Unheard (x)",
        "If <then_branch = a () => (float z) {z = Neg (x)}, else_branch = b () => (float z) {z = Neg (x)}> (x)",
    ],
)
def test_what_cannot_be_counted_is_refused(node: str) -> None:
    text = f"g (float[1, 1] x) => (float y) {{ y = {node} }}"
    with pytest.raises(ParityError, match="whose multiply-accumulates cannot be counted, expected learners and MatMul"):
        by_hand(text, {"x": drawn(1, 1)}, {})
