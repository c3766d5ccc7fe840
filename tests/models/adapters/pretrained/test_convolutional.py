"""Convolutional networks of transformers: the same answers, its own statistics, one line for what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from adaptrt.models import load_pretrained
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.check import TOLERANCE
from adaptrt.models.adapters.pretrained.convolutional.config import PretrainedConvolutionalConfig
from adaptrt.models.adapters.pretrained.convolutional.load import build_convolutional
from adaptrt.models.adapters.pretrained.convolutional.rows import CONVOLUTIONAL_ROWS, find_parts
from adaptrt.models.adapters.pretrained.load import read_pretrained
from adaptrt.models.adapters.pretrained.rows import PretrainedError, covered
from adaptrt.models.adapters.pretrained.task_choice import Choice
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from tests.models.adapters.pretrained.tiny_models import CONVOLUTIONAL, pretrained_network, saved, tiny_model

pytestmark = pytest.mark.slow("builds models of transformers")

SIZE = 24
KIND = "ResNetForImageClassification"


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_answers_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder, model = saved(tmp_path, family)
    found = read_pretrained(folder, image_size=SIZE)
    network: Any = found.network
    assert found.difference.largest <= TOLERANCE and not network.adaptive and not network.training
    assert len(found.difference.hidden) == len(network.blocks) == sum(CONVOLUTIONAL[family][1]["depths"])
    assert network.config.task == "classification" and network.config.classes == 5
    # Not the check's own comparison: other inputs, transformers' model as it was before it was saved.
    torch.manual_seed(11)
    inputs = network.example_inputs(3)
    with torch.no_grad():
        wanted = model(**inputs).logits
        given = network.run(inputs, {})
        hidden = network.embed(inputs)
        for block, size in zip(network.blocks, network.config.sizes, strict=True):
            hidden = block(hidden)
            assert tuple(hidden.shape[1:]) == size
    assert float((given.logits - wanted).abs().max() / wanted.abs().max()) <= TOLERANCE
    assert given.macs_fraction.tolist() == [1.0] * 3
    own = sum(parameter.numel() for parameter in model.parameters())
    assert network.dense_parameters() == own == sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("family", ["resnet_bottleneck", "convnext"])
@pytest.mark.parametrize("headless", [False, True])
def test_the_vector_of_an_image_is_what_is_pooled(family: str, headless: bool, tmp_path: Path) -> None:
    import transformers

    architecture = CONVOLUTIONAL[family][0].replace("ForImageClassification", "Model")
    folder, _ = saved(tmp_path, family, architecture if headless else None)
    network: Any = read_pretrained(folder, task="embedding", image_size=SIZE).network
    assert network.config.model_class == architecture and network.task.name == "embedding"
    model = getattr(transformers, architecture).from_pretrained(folder).eval()
    inputs = network.example_inputs(2)
    with torch.no_grad():
        torch.testing.assert_close(
            network.run(inputs, {}).outputs["sentence_embedding"], model(**inputs).pooler_output.flatten(1)
        )
        early = network.with_families([ExitConfig((1, 3), "certainty")]).run(inputs, {})
    assert [tuple(stage.outputs["sentence_embedding"].shape) for stage in early.stages] == [(2, 16)] * 3


def test_early_heads_read_the_mean_and_are_counted() -> None:
    dense = pretrained_network("resnet_basic", image_size=SIZE)
    network = adapt(dense, {}, exits=ExitConfig((1, 3))).eval()
    inputs = dense.example_inputs(2)
    with torch.no_grad():
        stages = network.run(inputs, {}).stages
        hidden = dense.blocks[0](dense.embed(inputs))
        torch.testing.assert_close(stages[0].logits, network.exit_heads[0].classifier(hidden.mean((2, 3))))
        torch.testing.assert_close(stages[-1].logits, dense.run(inputs, {}).logits)
    config, work = dense.config, dense.dense_macs()
    assert work == config.stem_macs + sum(config.block_macs) + 16 * 5
    first = (config.stem_macs + config.block_macs[0] + 8 * 5) / work
    assert stages[0].macs_fraction.tolist() == pytest.approx([first] * 2)
    assert float(stages[-1].macs_fraction[0]) == pytest.approx(1 + (8 * 5 + 12 * 5) / work)
    whole = network.unsplit()
    assert not whole.adaptive and whole.dense_parameters() == network.dense_parameters() == dense.dense_parameters()
    with torch.no_grad():
        torch.testing.assert_close(whole.run(inputs, {}).logits, stages[-1].logits)


@pytest.mark.parametrize("family", ["resnet_basic", "convnext"])
def test_training_leaves_statistics_and_drops_no_layers(family: str) -> None:
    dense = pretrained_network(family, image_size=SIZE)
    network = adapt(dense, {}, exits=ExitConfig((1,)))
    network.train()
    inputs = dense.example_inputs(4)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    torch.testing.assert_close(network.run(inputs, {}).logits, dense.run(inputs, {}).logits)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    assert network.training and network.exit_heads.training
    network.run(inputs, {}).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.blocks.parameters())


def test_usual_exits_are_at_thirds_of_the_work() -> None:
    from dataclasses import replace

    dense = pretrained_network("resnet_basic", image_size=SIZE)
    dense.config = replace(dense.config, stem_macs=5, block_macs=(10, 10, 40, 30, 5))
    assert dense.usual_exits() == (2, 3)
    dense.config = replace(dense.config, stem_macs=500)
    assert dense.usual_exits() == (1,)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}}, 32),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 20, "crop_pct": 0.875}, 20),
        ({"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": {"height": 28, "width": 28}}, 28),
        ({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 32}}, 224),
        ({}, 224),
    ],
)
def test_images_are_of_the_size_that_the_processor_gives(settings: dict[str, Any], size: int, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "resnet_basic")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    network: Any = read_pretrained(folder).network
    assert network.config.input_size == (3, size, size)


def test_classes_have_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    names = dict(enumerate(["ant", "bee", "cow"]))
    options = {"num_labels": 3, "id2label": names, "label2id": {name: number for number, name in names.items()}}
    folder, _ = saved(tmp_path, "resnet_basic", **options)
    assert load_pretrained(folder, image_size=SIZE).model.class_names == ("ant", "bee", "cow")
    assert load_pretrained(folder, task="embedding", image_size=SIZE).model.class_names == ()


# ---- what is refused ----


def refused(message: str) -> Any:
    return pytest.raises(PretrainedError, match=message)


def one_line(caught: pytest.ExceptionInfo[Any]) -> None:
    assert "\n" not in str(caught.value) and str(caught.value)


def changed(folder: Path, drop: str = "", **more: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    save_file({n: w for n, w in load_file(path).items() if n != drop} | more, path, {"format": "pt"})


@pytest.mark.parametrize(
    "name",
    [
        "resnet.encoder.stages.1.layers.0.layer.0.convolution.weight",
        "resnet.embedder.embedder.normalization.running_mean",
        "classifier.1.bias",
    ],
)
def test_missing_weights_and_statistics_are_named(name: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "resnet_basic")
    changed(folder, name)
    with refused(f"the checkpoint of {KIND} lacks {name} of {KIND}, expected all weights for") as e:
        load_pretrained(folder, image_size=SIZE)
    one_line(e)


def test_weights_beyond_the_model_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "resnet_basic")
    load_pretrained(folder, task="embedding", image_size=SIZE)  # the head is of another task
    changed(folder, **{"resnet.encoder.stages.0.layers.2.layer.0.convolution.weight": torch.zeros(1)})
    for task in (None, "embedding"):
        with refused(r"has resnet.encoder.stages.0.layers.2.*expected no weights beyond the model's") as e:
            load_pretrained(folder, task=task, image_size=SIZE)
        one_line(e)


def built(model: Any) -> Any:
    found = find_parts(model)
    assert found is not None
    return build_convolutional(model, found, Choice("classification", KIND, KIND), {}, image_size=SIZE)


def test_code_that_hides_behind_known_names_is_refused() -> None:
    built(tiny_model("resnet_basic"))
    model = tiny_model("resnet_basic")
    model.resnet.encoder.stages[1].register_forward_pre_hook(lambda _, given: (given[0] * 1.001,))
    with refused("values after layer 2 differ from transformers' own by .* expected at most 2e-05") as e:
        built(model)
    one_line(e)
    model = tiny_model("resnet_basic")
    model.resnet.pooler = nn.AdaptiveMaxPool2d((1, 1))
    with refused("values in logits differ") as e:
        built(model)
    one_line(e)


def test_a_part_beyond_those_named_is_refused() -> None:
    model = tiny_model("resnet_basic")
    model.resnet.gain = nn.Parameter(torch.ones(1))
    with refused("as those of ResNet, RegNet but which also has resnet.gain, expected nothing beyond them") as e:
        built(model)
    one_line(e)


@pytest.mark.parametrize(("task", "size"), [("feature-extraction", SIZE), (None, SIZE)])
def test_hidden_states_are_no_tokens(task: str | None, size: int, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "resnet_basic", "ResNetModel")
    with refused("got ResNetModel for feature-extraction, expected classification or embedding") as e:
        load_pretrained(folder, task=task, image_size=size)
    one_line(e)


def test_images_that_are_too_small_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "convnext")
    with refused(r"does not run on images of \[3, 1, 1\]") as e:
        load_pretrained(folder, image_size=1)
    one_line(e)


def test_another_convolutional_architecture_hears_what_is_covered(tmp_path: Path) -> None:
    import transformers

    config = transformers.BitConfig(hidden_sizes=[32, 32], depths=[1, 1], embedding_size=32, num_groups=4, num_labels=2)
    transformers.BitForImageClassification(config).save_pretrained(tmp_path)
    with refused("got BitForImageClassification, whose layers no row names, expected one of BERT") as e:
        load_pretrained(tmp_path)
    one_line(e)
    assert all(row.families in str(e.value) for row in CONVOLUTIONAL_ROWS) and covered() in str(e.value)


@pytest.mark.parametrize(
    "family", [{"acm": ACMConfig(2)}, {"pruning": PruningConfig((1,))}, {"routed": RoutedFFNConfig()}]
)
def test_other_families_than_exits_are_refused(family: dict[str, Any]) -> None:
    dense = pretrained_network("resnet_basic", image_size=SIZE)
    with pytest.raises(ValueError, match="a convolutional network, which has no tokens and no FFNs.*use exits") as e:
        adapt(dense, {}, **family)
    one_line(e)
    with pytest.raises(ValueError, match="got an exit after block 5 of 5"):
        adapt(dense, {}, exits=ExitConfig((5,)))
    with pytest.raises(ValueError, match="got two families 'exits'"):
        dense.with_families([ExitConfig((1,)), ExitConfig((2,))])


SHAPE: dict[str, Any] = {
    "made_of": {},
    "model_class": KIND,
    "task": "classification",
    "classes": 2,
    "input_size": (3, 8, 8),
    "stem": "stem",
    "blocks": (("a",), ("b", "c")),
    "norm": "",
    "sizes": ((4, 2, 2), (4, 1, 1)),
    "stem_macs": 1,
    "block_macs": (1, 0),
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "feature-extraction"}, "got task 'feature-extraction', expected one of"),
        ({"sizes": ((4, 2, 2), (4, 0, 1))}, "got sizes down to 0"),
        ({"block_macs": (1, -1)}, r"work of 1 and \[1, -1\]"),
        ({"block_macs": (1,)}, "got 2 blocks, sizes of 2 and work of 1"),
        ({"blocks": (("a",), ())}, "got 2 blocks"),
        ({"task": "embedding", "exits": ExitConfig((1,), "entropy")}, "got exit criterion 'entropy' for embedding"),
        ({"exits": ExitConfig((2,))}, "got an exit after block 2 of 2"),
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, Any], said: str) -> None:
    PretrainedConvolutionalConfig(**SHAPE)
    with pytest.raises(ValueError, match=said):
        PretrainedConvolutionalConfig(**{**SHAPE, **change})


def test_paths_that_a_model_does_not_have(tmp_path: Path) -> None:
    from dataclasses import replace

    from adaptrt.models.adapters.pretrained.convolutional.network import PretrainedConvolutional

    network: Any = read_pretrained(saved(tmp_path, "resnet_basic")[0], image_size=SIZE).network
    with refused("has no resnet.other, expected the one that the network was made of") as e:
        PretrainedConvolutional(replace(network.config, stem="resnet.other"))
    one_line(e)
