"""The residual network: what its stages compute, carry and cost, and that its export has no normalisation left."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from adaptrt.models.adapters.resnet import ResNet, ResNetConfig, with_exits
from adaptrt.models.families.exit_head import CRITERIA, ExitConfig
from adaptrt.models.staged_network import StageOutput

TINY = ResNetConfig(image_size=9, channels=2, widths=(4, 6), blocks=(2, 1), classes=3, mean=0.3, std=0.4)


def trained_like(config: ResNetConfig) -> ResNet:
    """A network whose normalisations do something, as after training."""
    torch.manual_seed(0)
    network = ResNet(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


def run(network: ResNet, pixels: torch.Tensor) -> list[StageOutput]:
    with torch.no_grad():
        return network.run_stages({"pixels": pixels}, {})


@pytest.mark.parametrize("after", [None, (1,), (1, 2)])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_last_stage_gives_what_the_whole_network_does(after: tuple[int, ...] | None, criterion: str) -> None:
    exits = None if after is None else ExitConfig(after, criterion)
    network = trained_like(dataclasses.replace(TINY, exits=exits))
    pixels = network.example_inputs(4)["pixels"]
    outputs = run(network, pixels)
    assert network.stage_names == [*(f"after_block_{number}" for number in after or ()), "final"]
    assert torch.equal(outputs[-1].logits, network(pixels))
    assert network.adaptive == (after is not None)
    for out in outputs:
        assert out.logits.shape == (4, 3) and out.decisions == []
        assert (out.confidence is None) == (after is None)
    assert outputs[-1].carried.keys().isdisjoint({"next_hidden"})


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("criterion", ["entropy", "patience"])
def test_what_is_carried_is_what_is_announced(criterion: str, size: int) -> None:
    network = trained_like(dataclasses.replace(TINY, image_size=size, exits=ExitConfig((1, 2), criterion)))
    outputs = run(network, network.example_inputs(5)["pixels"])
    assert network.carried_specs(0) == []
    for stage, out in enumerate(outputs[:-1]):
        given = {**out.carried, "macs_fraction": out.macs_fraction}
        specs = network.carried_specs(stage + 1)
        assert {spec.source for spec in specs} == set(given)
        for spec in specs:
            value = given[spec.source]
            assert value.dtype == getattr(torch, spec.tensor.dtype)
            assert list(value.shape) == [5 if axis == "batch" else axis for axis in spec.tensor.shape]


def convolutions(network: ResNet, pixels: torch.Tensor) -> list[int]:
    """Multiply-accumulates of every convolution and linear layer that runs, counted from what really runs."""
    found: list[int] = []

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            found.append(out[0].numel() * module.in_channels * module.kernel_size[0] ** 2)
        elif isinstance(module, nn.Linear):
            found.append(module.in_features * module.out_features)

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    run(network, pixels)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("size", [8, 9])
def test_work_is_that_of_the_layers_that_run(size: int) -> None:
    dense = trained_like(dataclasses.replace(TINY, image_size=size))
    pixels = torch.rand(1, 2, size, size)
    work = sum(convolutions(dense, pixels))
    assert dense.dense_macs() == work == sum(layer.dense for layer in dense.layers())
    assert run(dense, pixels)[0].macs_fraction.tolist() == [1.0]
    network = with_exits(dense, ExitConfig((1, 2), "certainty"))
    assert network.dense_macs() == work
    # The heads' two classifications and certainties at 4 channels each, and the certainty of the last at 6, which
    # is there for training and in no exported graph.
    assert sum(convolutions(network, pixels)) == work + 2 * 4 * (3 + 1) + 6
    fractions = [float(out.macs_fraction[0]) for out in run(network, pixels)]
    assert fractions[-1] == pytest.approx((sum(convolutions(network, pixels)) - 6) / work, abs=1e-6)
    stem, block = size**2 * 9 * 2 * 4, 2 * size**2 * 9 * 4 * 4
    assert fractions[0] == pytest.approx((stem + block + 16) / work, abs=1e-6)
    assert fractions[1] == pytest.approx((stem + 2 * block + 32) / work, abs=1e-6)


def test_size_of_resnet_20_is_the_published_one() -> None:
    # arXiv 1512.03385, table 6: 0.27 M parameters. Convolutions by hand, with two projection shortcuts of 1 × 1.
    network = ResNet(ResNetConfig(32, 3, (16, 32, 64), (3, 3, 3)))
    assert network.dense_parameters() / 1e6 == pytest.approx(0.27, abs=0.01)
    first, later = 6 * 32**2 * 9 * 16**2, 5 * 16**2 * 9 * 32**2 + 16**2 * 9 * 16 * 32
    by_hand = 32**2 * 9 * 3 * 16 + first + 2 * later + 2 * 16**2 * 16 * 32 + 64 * 10
    assert network.dense_macs() == by_hand


def test_weights_of_exits_are_not_the_dense_networks() -> None:
    dense = ResNet(TINY)
    counted = sum(parameter.numel() for parameter in dense.parameters())
    for criterion in CRITERIA:
        network = with_exits(dense, ExitConfig((1, 2), criterion))
        assert network.dense_parameters() == dense.dense_parameters() == counted


def test_a_sample_does_not_depend_on_its_batch() -> None:
    network = trained_like(dataclasses.replace(TINY, exits=ExitConfig((1, 2), "patience")))
    pixels = network.example_inputs(6)["pixels"]
    together = run(network, pixels)
    for index in range(6):
        for alone, whole in zip(run(network, pixels[index : index + 1]), together, strict=True):
            torch.testing.assert_close(alone.logits[0], whole.logits[index], atol=1e-5, rtol=1e-5)
            assert alone.macs_fraction[0] == whole.macs_fraction[index]


def test_exits_are_added_to_a_trained_network() -> None:
    dense = trained_like(TINY)
    network = with_exits(dense, ExitConfig((2,), "certainty"))
    pixels = torch.rand(3, 2, 9, 9)
    assert torch.equal(run(network, pixels)[-1].logits, run(dense, pixels)[0].logits)
    assert not network.training and network.config.exits == ExitConfig((2,), "certainty")
    with pytest.raises(ValueError, match="has exits already"):
        with_exits(network, ExitConfig((1,)))
    with pytest.raises(ValueError, match="got an exit after block 3 of 3"):
        with_exits(dense, ExitConfig((3,)))


def test_it_has_no_knobs() -> None:
    network = ResNet(dataclasses.replace(TINY, exits=ExitConfig((1,))))
    assert network.knob_specs() == [] and network.stage_knobs(1) == []
    assert network.stage_decisions() == [[], []]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (4,)}, "got 1 widths for 2 groups"),
        ({"widths": (), "blocks": ()}, "got 0 widths for 0 groups"),
        ({"blocks": (2, 0)}, "sizes of at least 1"),
        ({"std": 0.0}, "a std above 0"),
        ({"exits": ExitConfig((3,))}, "got an exit after block 3 of 3"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]


@pytest.mark.slow("traces every stage")
def test_its_exported_stages_have_no_normalisation_left() -> None:
    from adaptrt.export.graph.trace import trace_stage

    network = trained_like(dataclasses.replace(TINY, exits=ExitConfig((2,), "patience")))
    pixels = network.example_inputs(5)["pixels"]
    fed = {"pixels": pixels.numpy()}
    for stage, wanted in enumerate(run(network, pixels)):
        traced = trace_stage(network, stage)
        assert not {"BatchNormalization", "If"} & {node.op_type for node in traced.graph.graph.node}
        session = onnxruntime.InferenceSession(traced.graph.SerializeToString())
        names = [out.name for out in session.get_outputs()]
        read = {given.name for given in session.get_inputs()}  # the last head reads no streak
        found = dict(zip(names, session.run(None, {n: a for n, a in fed.items() if n in read}), strict=True))
        np.testing.assert_allclose(found["logits"], wanted.logits.numpy(), atol=1e-5)
        assert ("confidence" in found) == (stage + 1 < len(network.stage_names))
        if "confidence" in found:
            assert wanted.confidence is not None
            np.testing.assert_allclose(found["confidence"], wanted.confidence.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["macs_fraction"], wanted.macs_fraction.numpy(), atol=1e-6)
        if stage + 1 < len(network.stage_names):
            fed = {spec.tensor.name: found[spec.source] for spec in network.carried_specs(stage + 1)}
