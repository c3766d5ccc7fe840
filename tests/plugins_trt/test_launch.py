"""Launching on tensors: what is refused, and which configuration is taken."""

import pytest

pytest.importorskip("torch", reason="torch is not installed: install adaptrt[export]")
pytest.importorskip("triton", reason="triton is not installed: install adaptrt[kernels]")

import torch

from adaptrt.bench.gpu.reference import Sizes, draw_mlp, mlp_reference
from adaptrt.ops import ACTIVATIONS, RECORDS
from adaptrt.plugins_trt import launch
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import (
    CONDITIONAL_MLP_DOWN,
    CONDITIONAL_MLP_ORDER,
    CONDITIONAL_MLP_UP,
    KERNEL_RECORDS,
)
from adaptrt.plugins_trt.kernels.configurations import FAMILIES, family_of
from tests.ops.kernels import DEVICE

SIZES = Sizes(10, 3, 16, 16, 16)


def tensors(weights: str = "float16") -> dict[str, torch.Tensor]:
    return draw_mlp(SIZES, "float16", weights, DEVICE, torch.Generator().manual_seed(0)).tensors


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("k", lambda k: k.long(), "k has dtype int64, expected int32"),
        ("k", lambda k: k[1:], "axis T of k is 9, expected 10"),
        ("x", lambda x: x.float(), "w1 has dtype float16, expected float32"),
        ("x", lambda x: x.double(), "x has dtype float64, expected one of float16, bfloat16, float32"),
        ("x", lambda x: x.t().contiguous().t(), "x has gaps, expected it contiguous"),
        ("w1", lambda w: w.to(torch.int8), "w1 has dtype int8, expected float16; int8 weights need their scale"),
        ("w1", lambda w: w[0], r"w1 has shape \[16, 16\], expected \[N, D, h\]"),
        ("b1", lambda b: b[:2], "axis N of b1 is 2, expected 3"),
        ("b2", lambda b: b[None], r"b2 has shape \[1, 16\], expected \[E\]"),
        ("w2", lambda w: w[:, 1:], "axis h of w2 is 15, expected 16"),
    ],
)
def test_tensors_that_do_not_fit_are_named(name: str, change: object, message: str) -> None:
    good = tensors()
    with pytest.raises(KernelError, match=message):
        launch.conditional_mlp(**{**good, name: change(good[name])})  # type: ignore[operator]


def test_scales_come_with_int8_weights_only() -> None:
    good = tensors("int8")
    with pytest.raises(KernelError, match="w1 has dtype int8, expected float16; int8 weights need their scale"):
        launch.conditional_mlp(**{name: tensor for name, tensor in good.items() if "scale" not in name})
    with pytest.raises(KernelError, match="w1 has dtype float16, expected int8"):
        launch.conditional_mlp(**{**good, "w1": tensors()["w1"]})


def test_scales_of_activations_come_with_those_of_weights_and_together() -> None:
    good = draw_mlp(SIZES, "float16", "int8", DEVICE, torch.Generator().manual_seed(0), activations="int8").tensors
    assert launch.conditional_mlp(**good).dtype == torch.float16
    for left_out in ("x_scale", "hidden_scale"):
        with pytest.raises(KernelError, match=f"got tensors .*, expected .*{left_out}"):
            launch.conditional_mlp(**{name: tensor for name, tensor in good.items() if name != left_out})
    with pytest.raises(KernelError, match="got tensors .*, expected .*w1_scale"):
        launch.conditional_mlp(**{**tensors(), "x_scale": good["x_scale"], "hidden_scale": good["hidden_scale"]})
    with pytest.raises(KernelError, match="axis N of hidden_scale is 2, expected 3"):
        launch.conditional_mlp(**{**good, "hidden_scale": good["hidden_scale"][1:]})
    with pytest.raises(KernelError, match=r"x_scale has shape \[1\], expected \[\]"):
        launch.conditional_mlp(**{**good, "x_scale": good["x_scale"][None]})
    with pytest.raises(KernelError, match="x_scale has dtype float16, expected float32"):
        launch.conditional_mlp(**{**good, "x_scale": good["x_scale"].half()})


def test_a_missing_tensor_is_named() -> None:
    k = tensors()["k"]
    with pytest.raises(KernelError, match="got tensors k, expected k, order, running"):
        launch.launch(CONDITIONAL_MLP_ORDER, {"k": k})


def test_ops_by_their_activation() -> None:
    for row in ACTIVATIONS.values():
        for name, function in ((row.mlp, launch.conditional_mlp), (row.glu, launch.conditional_glu)):
            if not name:
                continue
            inputs = draw_mlp(SIZES, "float32", "int8", DEVICE, torch.Generator().manual_seed(0), RECORDS[name])
            got = function(**inputs.tensors, activation=row.name)  # type: ignore[operator]
            torch.testing.assert_close(got.double(), mlp_reference(inputs), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="got gate 'relu', expected one of gelu, gelu_tanh, silu"):
        launch.conditional_glu(**inputs.tensors, activation="relu")


def test_an_op_without_kernels_is_refused() -> None:
    with pytest.raises(KernelError, match="got ConditionalLinear, expected an op with kernels"):
        launch.compute(RECORDS["ConditionalLinear"], {})
    with pytest.raises(KernelError, match="ConditionalSwiGLU: got no v1, c1, expected all of the op's inputs"):
        launch.compute(RECORDS["ConditionalSwiGLU"], tensors())
    with pytest.raises(KernelError, match="ConditionalMLP: got v1, expected some of b1, b2, hidden_scale, k, w1, w1_"):
        launch.compute(RECORDS["ConditionalMLP"], {**tensors(), "v1": tensors()["w1"]})


def test_limits_are_checked() -> None:
    x = torch.zeros(1, 2, 3, device=DEVICE)
    with pytest.raises(KernelError, match="got limits 'some', expected any or none"):
        launch.select_tokens(x, x, x, x, x, x, x, limits="some")


@pytest.mark.parametrize(("tokens", "name"), [(4096, "large"), (4095, "small"), (0, "small")])
def test_large_batches_get_large_tiles(tokens: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "current_arch", lambda: 90)
    for record in (CONDITIONAL_MLP_UP, CONDITIONAL_MLP_DOWN):
        sizes = {"T": tokens, "N": 4, "D": 768, "h": 768, "E": 768}
        assert launch.choose_configuration(record, sizes, "float16", "float16").name == name
        odd = {**sizes, "h": 770}
        assert launch.choose_configuration(record, odd, "float16", "float16").name == "unaligned"


def test_a_device_between_two_architectures_takes_the_older_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"T": 8, "N": 1, "D": 16, "h": 16, "E": 16}
    monkeypatch.setattr(launch, "current_arch", lambda: 91)
    between = launch.choose_configuration(CONDITIONAL_MLP_DOWN, sizes, "float16", "float16")
    assert between == CONDITIONAL_MLP_DOWN.configurations(90, "float16", "float16", aligned=True)[-1]
    monkeypatch.setattr(launch, "current_arch", lambda: 75)
    with pytest.raises(KernelError, match="got a device of architecture 75, expected 80 or later"):
        launch.choose_configuration(CONDITIONAL_MLP_DOWN, sizes, "float16", "float16")


@pytest.mark.parametrize("arch", FAMILIES)
@pytest.mark.parametrize("op", KERNEL_RECORDS)
def test_the_last_configuration_takes_every_size(op: str, arch: int) -> None:
    for dtype, weights in (("float16", "float16"), ("float32", "float32"), ("bfloat16", "int8")):
        for aligned in (True, False):
            assert not KERNEL_RECORDS[op].configurations(arch, dtype, weights, aligned=aligned)[-1].at_least


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(KernelError, match="got architecture 53, expected one of 80, 86, 87"):
        family_of(53)
