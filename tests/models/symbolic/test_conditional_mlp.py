"""Learners in torch: what they compute, what they cost, how they are exported and how they take over dense weights."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from adaptrt.export.graph.bodies import attach_bodies
from adaptrt.models import ConditionalGLU, ConditionalLinear, ConditionalMLP
from adaptrt.ops import ACTIVATIONS, RECORDS
from tests.ops.implementations import run_in_onnxruntime

Learners = ConditionalMLP | ConditionalGLU

MODULES = {
    **{row.mlp: (ConditionalMLP, row.name) for row in ACTIVATIONS.values()},
    **{row.glu: (ConditionalGLU, row.name) for row in ACTIVATIONS.values() if row.glu},
}


def made(op: str, learners: int = 3, width: int = 8, hidden: int = 5, out: int = 6) -> Learners:
    torch.manual_seed(0)
    module, activation = MODULES[op]
    learned: Learners = module(learners, width, hidden, out, activation)
    for name, parameter in learned.named_parameters():
        if name in ("b1", "c1", "b2"):
            nn.init.normal_(parameter)
    return learned


def inputs_of(module: Learners, tokens: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, module.width, generator=generator)
    return x, torch.randint(-1, module.learners + 2, (tokens,), dtype=torch.int32, generator=generator)


def weights_of(module: Learners) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def test_every_op_with_an_activation_has_a_module() -> None:
    assert set(MODULES) == {record.name for record in RECORDS.values() if "ACTIVATION" in str(record.parts)}


@pytest.mark.parametrize("op", MODULES)
def test_a_module_computes_its_op(op: str) -> None:
    module = made(op)
    assert module.op == op
    x, k = inputs_of(module)
    wanted = RECORDS[op].reference(x=x.numpy(), k=k.numpy(), **weights_of(module))
    np.testing.assert_allclose(module(x, k).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)
    partial = module.contributions(x).cumsum(0) + module.b2
    torch.testing.assert_close(partial[-1], module(x, torch.full_like(k, 3)), atol=1e-5, rtol=1e-4)
    assert torch.equal(module(x, torch.zeros_like(k)), module.b2.expand(len(x), -1))
    assert module(x[:0], k[:0]).shape == (0, 6)


@pytest.mark.parametrize("op", MODULES)
def test_the_comparison_can_fail(op: str) -> None:
    module = made(op)
    x, k = inputs_of(module)
    wanted = RECORDS[op].reference(x=x.numpy(), k=k.numpy(), **weights_of(module))
    for other in MODULES:
        if other != op and MODULES[other][0] is MODULES[op][0]:
            changed = made(other)
            changed.load_state_dict(module.state_dict())
            with pytest.raises(AssertionError):
                np.testing.assert_allclose(changed(x, k).detach().numpy(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", MODULES)
def test_masks_weigh_learners_and_take_gradients(op: str) -> None:
    module = made(op)
    x, _ = inputs_of(module)
    mask = torch.rand(len(x), 3, requires_grad=True)
    y = module.masked(x, mask)
    wanted = (module.contributions(x) * mask.T[:, :, None]).sum(0) + module.b2
    torch.testing.assert_close(y, wanted, atol=1e-5, rtol=1e-4)
    y.square().sum().backward()
    for gradient in (mask.grad, *(parameter.grad for parameter in module.parameters())):
        assert gradient is not None and gradient.abs().sum() > 0


@pytest.mark.slow("traces every op")
@pytest.mark.parametrize("op", MODULES)
def test_an_export_has_one_node_with_all_learners(op: str) -> None:
    module = made(op).eval()
    x, _ = inputs_of(module)
    k = torch.zeros(len(x), dtype=torch.int32)  # an example that runs nothing must leave nothing out
    tokens = torch.export.Dim("tokens")
    program = torch.onnx.export(
        module, (x, k), dynamo=True, opset_version=20, dynamic_shapes=({0: tokens}, {0: tokens}), verbose=False
    )
    assert program is not None
    model = onnx.load(io.BytesIO(program.model_proto.SerializeToString()))
    assert [node.op_type for node in model.graph.node if node.domain == "adaptrt"] == [op]
    model.ir_version = 10
    assert attach_bodies(model) == {op: 3}
    x, k = inputs_of(module, 17)
    named = [value.name for value in model.graph.input]
    (y,) = run_in_onnxruntime(model, dict(zip(named, (x.numpy(), k.numpy()), strict=True)))
    np.testing.assert_allclose(y, module(x, k).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_macs_by_hand() -> None:
    assert ConditionalMLP(3, 8, 5, 6).macs_per_run == 5 * 8 + 5 * 6
    assert ConditionalMLP(3, 8, 5, 6, "relu").macs_per_run == 5 * 8 + 5 * 6
    assert ConditionalGLU(3, 8, 5, 6).macs_per_run == 2 * 5 * 8 + 5 * 6


@pytest.mark.parametrize("module", [ConditionalMLP, ConditionalLinear])
def test_a_seed_gives_the_weights_that_it_always_gave(module: type[ConditionalMLP | ConditionalLinear]) -> None:
    torch.manual_seed(0)
    learned = module(3, 8, 5, 6)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(learned.w1, torch.randn(3, 8, 5) * 8**-0.5)
    assert torch.equal(learned.w2, torch.randn(3, 5, 6) * 15**-0.5)
    assert torch.equal(after, torch.rand(1))
    names = ["w1", "b1", "w2", "b2"] if module is ConditionalMLP else ["w1", "w2", "b2"]
    assert list(learned.state_dict()) == names


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", MODULES)
def test_all_learners_compute_what_the_dense_network_did(op: str, bias: bool) -> None:
    module = made(op, learners=4, width=8, hidden=3, out=6)
    torch.manual_seed(2)
    up, gate, down = nn.Linear(8, 12, bias), nn.Linear(8, 12, bias), nn.Linear(12, 6, bias)
    x, k = inputs_of(module)
    act = ACTIVATIONS[module.activation].torch
    if isinstance(module, ConditionalGLU):
        module.split_gated(gate, up, down, x)
        hidden = act(torch, gate(x)) * up(x)
    else:
        module.split_dense(up, down, x)
        hidden = act(torch, up(x))
    torch.testing.assert_close(module(x, torch.full_like(k, 4)), down(hidden), atol=1e-5, rtol=1e-4)
    # The first learner has the units that contribute most.
    sizes = (module.contributions(x)).norm(dim=2).mean(1)
    assert sizes[0] > sizes[-1]


@pytest.mark.parametrize("op", MODULES)
def test_modules_are_copied_and_pickled(op: str) -> None:
    module = made(op)
    x, k = inputs_of(module)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x, k), module(x, k))


def test_unknown_activations_are_named_before_anything_is_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="got activation 'tanh', expected one of gelu, gelu_tanh, quick_gelu, relu"):
        ConditionalMLP(3, 8, 5, 6, "tanh")
    with pytest.raises(ValueError, match="got gate 'relu', expected one of gelu, gelu_tanh, silu"):
        ConditionalGLU(3, 8, 5, 6, "relu")
    assert torch.equal(torch.get_rng_state(), before)
