"""Each kernel by itself: what it writes, what it leaves alone, every tile of the table."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="torch is not installed: install adaptrt[export]")
pytest.importorskip("triton", reason="triton is not installed: install adaptrt[kernels]")

import torch

from adaptrt.bench.gpu.reference import LEARNER_OPS, TOLERANCES, Sizes, draw_mlp, mlp_reference, tolerance_of
from adaptrt.ops import CONDITIONAL_MLP, RECORDS, SELECT_TOKENS, Case, OpRecord
from adaptrt.ops.int8 import even_steps
from adaptrt.ops.record import Array
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.kernel_records import (
    CONDITIONAL_MLP_DOWN,
    CONDITIONAL_MLP_ORDER,
    CONDITIONAL_MLP_UP,
    KERNEL_RECORDS,
)
from adaptrt.plugins_trt.kernels.configurations import FAMILIES, Configuration
from tests.ops.implementations import assert_close
from tests.ops.kernels import DEVICE, poisoned, run_kernels

seeds = st.integers(0, 2**32 - 1)
ONE_OF_EACH_FAMILY = sorted({family: arch for arch, family in FAMILIES.items()}.values())
OF_TILES = ("ConditionalMLP", "ConditionalSwiGLU")  # each kernel file's tiles by one op
TILES = {
    f"{op}-{choice.name}-{'x'.join(map(str, choice.blocks.values()))}": (op, choice)
    for op in ("ConditionalMLPUp", "ConditionalSwiGLUUp", "ConditionalMLPDown")
    for arch in ONE_OF_EACH_FAMILY
    for dtype, weights, activations in (("float16",) * 3, ("float32",) * 3, ("float16", "int8", "float16"))
    for choice in KERNEL_RECORDS[op].configurations(arch, dtype, weights, activations, aligned=True)
}


def ordered(k: torch.Tensor, learners: int) -> tuple[torch.Tensor, torch.Tensor]:
    order, running = poisoned(k, tuple(k.shape), "int32"), poisoned(k, (learners,), "int32")
    launch.launch(CONDITIONAL_MLP_ORDER, {"k": k, "order": order, "running": running})
    return order, running


def assert_right(
    sizes: Sizes,
    dtype: str,
    weights: str,
    seed: int,
    choose: launch.Choose,
    op: OpRecord = CONDITIONAL_MLP,
    activations: str = "",
) -> None:
    inputs = draw_mlp(sizes, dtype, weights, DEVICE, torch.Generator().manual_seed(seed), op, activations)
    got = launch.compute(op, inputs.tensors, allocate=poisoned, choose=choose)["y"]
    tolerance = tolerance_of(dtype, activations)
    torch.testing.assert_close(got.double(), mlp_reference(inputs), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("op", LEARNER_OPS, ids=lambda op: op.name)
def test_tolerances_are_those_of_the_op(op: OpRecord) -> None:
    of_the_op = {name: (tolerance.rtol, tolerance.atol) for name, tolerance in op.tolerances.items()}
    assert of_the_op == {name: (tolerance, tolerance) for name, tolerance in TOLERANCES.items()}


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    tokens=st.one_of(st.integers(0, 20), st.integers(0, 5000)),
    learners=st.integers(1, 20),
    draw=st.sampled_from(["random", "beyond", "none", "all"]),
)
def test_tokens_are_ordered_by_k_and_equal_ones_stay_in_order(seed: int, tokens: int, learners: int, draw: str) -> None:
    generator = np.random.default_rng(seed)
    k = {
        "random": lambda: generator.integers(0, learners + 1, tokens),
        "beyond": lambda: generator.integers(-5, learners + 6, tokens),
        "none": lambda: np.zeros(tokens),
        "all": lambda: np.full(tokens, learners),
    }[draw]().astype(np.int32)
    order, running = ordered(torch.from_numpy(k).to(DEVICE), learners)
    level = np.clip(k, 0, learners)
    np.testing.assert_array_equal(order.cpu().numpy(), np.argsort(-level, kind="stable"))
    np.testing.assert_array_equal(running.cpu().numpy(), [(level > n).sum() for n in range(learners)])


def test_numbers_at_the_ends_of_int32_are_clamped() -> None:
    k = torch.tensor([-(2**31), 2**31 - 1, 1], dtype=torch.int32, device=DEVICE)
    order, running = ordered(k, 3)
    assert order.tolist() == [1, 2, 0] and running.tolist() == [2, 1, 1]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nothing_is_written_where_no_learner_runs_and_nothing_of_it_read(dtype: str) -> None:
    sizes = Sizes(150, 4, 32, 16, 32)
    inputs = draw_mlp(sizes, dtype, dtype, DEVICE, torch.Generator().manual_seed(5)).tensors
    order, running = ordered(inputs["k"], sizes.N)
    ordering = {"order": order, "running": running}
    hidden = poisoned(inputs["x"], (sizes.T, sizes.N * sizes.h), dtype)
    up = {"x": inputs["x"], **ordering, "w1": inputs["w1"], "b1": inputs["b1"], "hidden": hidden}
    launch.launch(CONDITIONAL_MLP_UP, up)
    written = ~torch.isnan(hidden).cpu().reshape(sizes.T, sizes.N, sizes.h)
    runs = torch.arange(sizes.T)[:, None] < running.cpu()[None]
    assert torch.equal(written, runs[:, :, None].expand_as(written)) and not runs.all() and runs.any()
    y = poisoned(inputs["x"], (sizes.T, sizes.E), dtype)
    down = {"hidden": hidden, **ordering, "w2": inputs["w2"], "b2": inputs["b2"], "y": y}
    launch.launch(CONDITIONAL_MLP_DOWN, down)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("tile", TILES)
def test_every_tile_of_the_table(tile: str) -> None:
    op, choice = TILES[tile]

    def choose(record: launch.KernelRecord, sizes: dict[str, int], *dtypes: str) -> Configuration:
        return choice if record.op == op else launch.choose_configuration(record, sizes, *dtypes)

    (whole,) = [name for name in OF_TILES if op in {part.name for part in RECORDS[name].parts}][:1]
    assert_right(Sizes(150, 3, 80, 48, 144), "float16", "float16", 1, choose, RECORDS[whole])


@settings(max_examples=8, deadline=None)
@given(seed=seeds, tokens=st.integers(0, 4500), learners=st.integers(1, 5), dtype=st.sampled_from(sorted(TOLERANCES)))
def test_thousands_of_tokens(seed: int, tokens: int, learners: int, dtype: str) -> None:
    assert_right(Sizes(tokens, learners, 16, 16, 16, "beyond"), dtype, dtype, seed, launch.choose_configuration)


@pytest.mark.parametrize("op", OF_TILES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds, sizes=st.builds(Sizes, *[st.integers(low, 70) for low in (0, 1, 1, 1, 1)]))
def test_int8_weights_mean_what_their_scales_say(op: str, dtype: str, seed: int, sizes: Sizes) -> None:
    few = Sizes(sizes.T, sizes.N % 5 + 1, sizes.D, sizes.h, sizes.E, "beyond")
    assert_right(few, dtype, "int8", seed, launch.choose_configuration, RECORDS[op])


@pytest.mark.parametrize("op", OF_TILES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@settings(max_examples=8, deadline=None)
@given(seed=seeds, sizes=st.builds(Sizes, *[st.integers(low, 70) for low in (0, 1, 1, 1, 1)]))
def test_int8_activations_are_steps_of_their_scales(op: str, dtype: str, seed: int, sizes: Sizes) -> None:
    few = Sizes(sizes.T, sizes.N % 5 + 1, sizes.D, sizes.h, sizes.E, "beyond")
    assert_right(few, dtype, "int8", seed, launch.choose_configuration, RECORDS[op], "int8")


@pytest.mark.parametrize("op", OF_TILES)
def test_the_tile_of_bytes_for_aligned_sizes(op: str) -> None:
    taken: list[str] = []

    def choose(record: launch.KernelRecord, sizes: dict[str, int], *dtypes: str) -> Configuration:
        choice = launch.choose_configuration(record, sizes, *dtypes)
        taken.append(choice.name)
        return choice

    assert_right(Sizes(150, 3, 144, 80, 96), "float16", "int8", 1, choose, RECORDS[op], "int8")
    assert taken == ["tokens", "bytes", "bytes"]


@pytest.mark.parametrize("name", ["ConditionalMLP", "ConditionalMLPRelu"])
def test_int8_activations_are_those_of_the_ops_reference(name: str) -> None:
    op, scale = RECORDS[name], np.float32(0.03)
    inputs = draw_mlp(Sizes(40, 3, 32, 16, 16), "float32", "int8", "cpu", torch.Generator().manual_seed(2), op, "int8")
    given = {**inputs.tensors, "x_scale": torch.tensor(scale), "hidden_scale": torch.full((3,), float(scale))}
    on_device = {key: tensor.to(DEVICE) for key, tensor in given.items()}
    got = launch.compute(op, on_device, allocate=poisoned)["y"].cpu().numpy()
    wide = {field.name: (inputs.tensors | inputs.weights)[field.name].numpy() for field in op.inputs}
    plain = {key: array.astype(np.float32) if key != "k" else array for key, array in wide.items()}

    def product(rows: Array, weight: Array) -> Array:
        return even_steps(rows, scale).astype(np.float64) * np.float64(scale) @ weight.astype(np.float64)

    np.testing.assert_allclose(got, op.reference(**plain, product=product), rtol=0, atol=1e-2)
    assert np.abs(got - op.reference(**plain)).max() > 2e-2


def test_steps_round_to_even_and_end_at_a_byte() -> None:
    """One learner whose weights give x itself, by x of all the steps there are and more."""
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 126.5, 127.4, 300.0, -128.5, -1000.0, 0.49, 3.0]]).T.contiguous()
    one = torch.ones(1, 1, 1, dtype=torch.int8)
    given = {"x": x, "k": torch.ones(len(x), dtype=torch.int32), "w1": one, "b1": torch.zeros(1, 1), "w2": one}
    given |= {"b2": torch.zeros(1), "w1_scale": torch.ones(1, 1), "w2_scale": torch.ones(1, 1)}
    given |= {"x_scale": torch.tensor(1.0), "hidden_scale": torch.ones(1)}
    on_device = {name: tensor.to(DEVICE) for name, tensor in given.items()}
    y = launch.compute(RECORDS["ConditionalMLPRelu"], on_device, allocate=poisoned)["y"].cpu()[:, 0]
    wanted = even_steps(x[:, 0].numpy(), np.float32(1))
    assert wanted.tolist() == [0, 2, 2, 0, -2, 126, 127, 127, -128, -128, 0, 3]
    assert y.tolist() == np.maximum(wanted, 0).tolist()


@pytest.mark.parametrize("op", OF_TILES)
def test_bytes_are_written_only_where_a_learner_runs(op: str) -> None:
    sizes = Sizes(150, 4, 32, 16, 32)
    record = RECORDS[op]
    inputs = draw_mlp(sizes, "float16", "int8", DEVICE, torch.Generator().manual_seed(5), record, "int8").tensors
    order, running = ordered(inputs["k"], sizes.N)
    hidden = {}
    for fill in (99, -99):
        hidden[fill] = torch.full((sizes.T, sizes.N * sizes.h), fill, dtype=torch.int8, device=DEVICE)
        up = KERNEL_RECORDS[record.parts[1].name]
        tensors = {**inputs, "order": order, "running": running, "hidden": hidden[fill]}
        names = [one.name for one in up.arguments_of("int8", "int8") if one.kind != "size"]
        launch.launch(up, {name: tensors[name] for name in names})
    written = (hidden[99] == hidden[-99]).cpu().reshape(sizes.T, sizes.N, sizes.h)
    runs = torch.arange(sizes.T)[:, None] < running.cpu()[None]
    assert torch.equal(written, runs[:, :, None].expand_as(written)) and not runs.all() and runs.any()


@pytest.mark.parametrize(
    ("op", "scale"),
    [
        ("ConditionalMLP", "w2_scale"),
        ("ConditionalMLP", "x_scale"),
        ("ConditionalMLP", "hidden_scale"),
        ("ConditionalSwiGLU", "w1_scale"),
        ("ConditionalSwiGLU", "v1_scale"),
        ("ConditionalSwiGLU", "x_scale"),
    ],
)
def test_the_comparison_can_fail(op: str, scale: str) -> None:
    generator = torch.Generator().manual_seed(0)
    activations = "int8" if scale in ("x_scale", "hidden_scale") else ""
    inputs = draw_mlp(Sizes(40, 4, 16, 16, 16), "float16", "int8", DEVICE, generator, RECORDS[op], activations)
    wrong = {**inputs.tensors, scale: inputs.tensors[scale] * 1.5}
    got = launch.compute(RECORDS[op], wrong, allocate=poisoned)["y"].double()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(got, mlp_reference(inputs), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("limits", [(300, 300), (1, 17), (650, 700), (0, 700)])
@pytest.mark.parametrize("draw", ["ties+padded", "odd_scores+many_forced+holes"])
def test_selections_longer_than_one_block(draw: str, limits: tuple[int, int]) -> None:
    case = Case("long", {"B": 2, "T": 700, "D": 5}, draw, dict(zip(("keep_min", "keep_max"), limits, strict=True)))
    inputs = SELECT_TOKENS.make_inputs(case, np.random.default_rng(3), "float32")
    assert_close(SELECT_TOKENS, run_kernels(SELECT_TOKENS, inputs, {}), SELECT_TOKENS.expected(inputs), "float32")


def test_zero_has_one_rank_whatever_its_sign() -> None:
    inputs = {
        "x": np.arange(4, dtype=np.float32).reshape(1, 4, 1),
        "score": np.array([[-0.0, 0.0, -0.0, 1e-45]], np.float32),
        "valid": np.ones((1, 4), bool),
        "forced": np.zeros((1, 4), bool),
        "threshold": np.array([9.0], np.float32),
        "keep_min": np.array(3, np.int64),
        "keep_max": np.array(3, np.int64),
    }
    assert run_kernels(SELECT_TOKENS, inputs, {})[1].tolist() == [[0, 1, 3]]


def test_a_launch_with_nothing_to_do_is_none() -> None:
    record = KERNEL_RECORDS["ConditionalMLPUp"]
    blocks = {"BLOCK_T": 64, "BLOCK_H": 32}
    assert record.extents({"T": 65, "N": 3, "h": 40, "D": 1}, blocks) == (2 * 3 * 2, 1, 1)
    assert record.extents({"T": 0, "N": 3, "h": 40, "D": 1}, blocks) == (0, 1, 1)
