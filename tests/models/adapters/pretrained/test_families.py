"""Every family that a row covers: its network computes what transformers does, and comes back from a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptrt.models import load_folder, save_model
from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.check import TOLERANCE
from adaptrt.models.adapters.pretrained.load import load_pretrained, read_pretrained
from adaptrt.models.adapters.pretrained.tail import reduced
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.network import Network
from tests.models.adapters.pretrained.tiny_models import FAMILIES, HEADS, length_of, saved, towers

pytestmark = pytest.mark.slow("builds models of transformers")

POSITIONS = {
    "mpnet": "relative",
    "beit": "pair",
    **dict.fromkeys(("modernbert", "nomic_bert", "eurobert", "dinov3", "dinov3_gated"), "table"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    folder, model = saved(tmp_path, family)
    found = read_pretrained(folder, task="feature-extraction", length=length_of(family))
    assert found.difference.largest <= TOLERANCE
    assert (
        len(found.difference.hidden) == found.network.config.depth and "last_hidden_state" in found.difference.outputs
    )
    config = found.network.config
    assert config.positions == POSITIONS.get(family, "added") and config.causal == (family == "clip_text")
    assert not found.network.adaptive and not found.network.training
    # Not the check's own comparison: other inputs, transformers' model as it was before it was saved.
    torch.manual_seed(11)
    inputs = found.network.example_inputs(2)
    model = model.get_encoder() if config.encoder_only else model
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model(**inputs)[0]
        given = found.network.run(inputs, {}).outputs["last_hidden_state"]
    real = inputs.get("attention_mask", torch.ones(wanted.shape[:2])) > 0
    assert float((given - wanted)[real].abs().max() / wanted[real].abs().max()) <= TOLERANCE


def test_local_and_global_attention_alternate(tmp_path: Path) -> None:
    network = load_pretrained(saved(tmp_path, "modernbert")[0], task="feature-extraction").model
    assert isinstance(network, Network) and network.config.windows == (0, 8, 8, 0)
    tables = [block.attention.cosine for block in network.blocks]  # type: ignore[union-attr]
    assert torch.equal(tables[0], tables[3]) and not torch.equal(tables[0], tables[1])  # type: ignore[arg-type]
    assert isinstance(network.blocks[0].norm1, torch.nn.Identity)


@pytest.mark.parametrize(("family", "architecture", "task", "reads"), HEADS)
def test_heads_answer_as_those_of_transformers(
    family: str, architecture: str, task: str, reads: str, tmp_path: Path
) -> None:
    folder = towers(tmp_path, family, architecture) or saved(tmp_path, family, architecture)[0]
    found = read_pretrained(folder, length=length_of(family))
    assert found.network.config.task == task and found.network.config.reads == reads
    assert found.difference.largest <= TOLERANCE
    model = _as_it_is(folder, architecture)
    torch.manual_seed(12)
    inputs = found.network.example_inputs(2)
    with torch.no_grad():
        wanted, given = model(**inputs), found.network.run(inputs, {}).outputs
    for name, tensor in given.items():
        real = torch.ones(wanted[name].shape[:2]) > 0
        if found.network.task.per_token and "attention_mask" in inputs:
            real = inputs["attention_mask"] > 0
        torch.testing.assert_close(tensor[real], wanted[name][real], atol=2e-5, rtol=2e-5)


def _as_it_is(folder: Path, architecture: str) -> torch.nn.Module:
    import transformers

    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()
    model.set_attn_implementation("eager")
    assert isinstance(model, torch.nn.Module)
    return model


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov2_registers", "clip_vision", "siglip_vision"])
def test_images_of_another_size_have_interpolated_positions(family: str, tmp_path: Path) -> None:
    folder, model = saved(tmp_path, family)
    network = read_pretrained(folder, task="feature-extraction", image_size=24).network
    assert network.config.input_size == (3, 24, 24) and network.config.made_of["image_size"] == 24
    images = network.example_inputs(2)
    with torch.no_grad():
        # DINOv2 interpolates without being asked.
        asked = {} if family.startswith("dinov2") else {"interpolate_pos_encoding": True}
        wanted = model(**images, **asked)[0]
        given = network.run(images, {}).outputs["last_hidden_state"]
    torch.testing.assert_close(given, wanted, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 32}}, 24),
        ({"size": {"height": 20, "width": 20}}, 20),
        ({"size": {"shortest_edge": 32}, "do_center_crop": False, "crop_size": 24}, 16),
        ({}, 16),
    ],
)
def test_images_are_of_the_size_that_the_processor_gives(settings: dict[str, Any], size: int, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "dinov2")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    assert read_pretrained(folder, task="feature-extraction").network.config.input_size == (3, size, size)
    assert read_pretrained(folder, task="embedding", image_size=8).network.config.input_size == (3, 8, 8)


def test_the_vector_of_clip_is_its_pooled_output(tmp_path: Path) -> None:
    folder, model = saved(tmp_path, "clip_vision")
    network = read_pretrained(folder, task="embedding").network
    images = network.example_inputs(2)
    with torch.no_grad():
        given = network.run(images, {}).outputs["sentence_embedding"]
        torch.testing.assert_close(given, model(**images).pooler_output, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("architecture", ["CLIPVisionModelWithProjection", "CLIPModel"])
def test_the_vector_of_clip_with_a_projection_is_its_image_embedding(architecture: str, tmp_path: Path) -> None:
    import transformers

    sizes: dict[str, Any] = {"projection_dim": 12}
    if architecture == "CLIPModel":
        sizes |= {"vision_config": {**FAMILIES["clip_vision"][1], **sizes}, "text_config": FAMILIES["clip_text"][1]}
    else:
        sizes |= FAMILIES["clip_vision"][1]
    kind = getattr(transformers, architecture)
    torch.manual_seed(2)
    kind(kind.config_class(**sizes)).save_pretrained(tmp_path)
    tower = read_pretrained(tmp_path, task="feature-extraction").network
    assert tower.config.model_class == "CLIPVisionModel" and tower.config.modality == "image"
    if architecture == "CLIPModel":
        words = read_pretrained(tmp_path, task="feature-extraction", model_class="CLIPTextModel").network
        assert words.config.modality == "text" and words.config.causal
    found = read_pretrained(tmp_path, task="embedding")
    model = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path).eval()
    images = found.network.example_inputs(2)
    adaptive = adapt(found.network, images, acm=ACMConfig(2), exits=ExitConfig((1,), "certainty"))
    with torch.no_grad():
        given = found.network.run(images, {}).outputs["sentence_embedding"]
        assert given.shape == (2, 12)
        torch.testing.assert_close(given, model(**images).image_embeds, atol=1e-5, rtol=1e-4)
    assert torch.equal(adaptive.exit_heads[0].tail.weight, model.visual_projection.weight)  # type: ignore[union-attr, operator]


def test_means_leave_out_the_prefix_and_what_is_gone() -> None:
    hidden = torch.arange(24.0).reshape(1, 6, 4)
    place, valid = torch.tensor([[0, 2, 3, 5, 0, 0]]), torch.tensor([[True, True, True, True, False, False]])
    first, second = hidden[0, 0], hidden[0, 1]
    cut = reduced(hidden, "first and mean", valid, 3, place)[0]
    assert torch.equal(cut[0], first) and len(cut) == 4
    torch.testing.assert_close(cut[3], hidden[0, 2:4].mean(0))  # places 3 and 5; 2 is of the prefix, the rest padding
    torch.testing.assert_close(reduced(hidden, "first and mean", None, 2)[0, 2], hidden[0, 2:].mean(0))
    torch.testing.assert_close(reduced(hidden, "mean", valid)[0, 0], hidden[0, :4].mean(0))
    assert torch.equal(reduced(hidden, "first two")[0], torch.stack([first, second]))


def test_turned_positions_need_no_interpolation(tmp_path: Path) -> None:
    folder, model = saved(tmp_path, "dinov3")
    network = read_pretrained(folder, task="feature-extraction", image_size=32).network
    images = network.example_inputs(2)
    with torch.no_grad():
        given = network.run(images, {}).outputs["last_hidden_state"]
        torch.testing.assert_close(given, model(**images)[0], atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "albert", "modernbert", "mpnet", "beit", "dinov3", "whisper", "wav2vec2"])
def test_an_adapted_network_comes_back_from_a_folder(family: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path / "checkpoint", family)
    dense = load_pretrained(folder, task="embedding", length=length_of(family)).model
    assert isinstance(dense, Network)
    adaptive = adapt(dense, dense.example_inputs(4), acm=ACMConfig(2)).eval()
    save_model(tmp_path / "saved", adaptive, dense, None, torch.float32)
    for file in folder.iterdir():
        file.unlink()  # the folder has all that is needed
    loaded = load_folder(tmp_path / "saved", family)
    inputs, price = dense.example_inputs(3), {"price": torch.full((1,), 0.4)}
    assert isinstance(loaded.model, Network) and isinstance(loaded.dense, Network)
    with torch.no_grad():
        assert torch.equal(
            loaded.model.run(inputs, price).outputs["sentence_embedding"],
            adaptive.run(inputs, price).outputs["sentence_embedding"],
        )
        vector = dense.run(inputs, {}).outputs["sentence_embedding"]
        assert torch.equal(loaded.dense.run(inputs, {}).outputs["sentence_embedding"], vector)
        everything = adaptive.run(inputs, {"price": torch.zeros(1)}).outputs["sentence_embedding"]
    torch.testing.assert_close(everything, vector, atol=2e-5, rtol=1e-4)
    assert loaded.model.config.made_of["_name_or_path"] == "checkpoint"
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize(("family", "architecture"), [("bert", "BertForSequenceClassification"), ("wav2vec2", None)])
def test_training_drops_nothing(family: str, architecture: str | None, tmp_path: Path) -> None:
    """Dropout and masked spans belong to the training that the checkpoint has behind it."""
    options = {"mask_time_prob": 0.9, "mask_time_length": 2} if family == "wav2vec2" else {}
    network = load_pretrained(saved(tmp_path, family, architecture, **options)[0], length=length_of(family)).model
    assert isinstance(network, Network)
    inputs = network.example_inputs(2)
    inputs |= {name: torch.ones_like(tensor) for name, tensor in inputs.items() if name == "attention_mask"}
    output = network.task.outputs[0]
    with torch.no_grad():
        wanted = network.run(inputs, {}).outputs[output]
        torch.testing.assert_close(network.train().run(inputs, {}).outputs[output], wanted, atol=1e-6, rtol=1e-5)
    loss = network.run(inputs, {}).outputs[output].square().sum()
    loss.backward()
    assert all(block.ffn.up.weight.grad is not None for block in network.blocks)  # type: ignore[union-attr]


def test_half_precision_checkpoints_are_computed_in_full(tmp_path: Path) -> None:
    folder, model = saved(tmp_path / "a", "bert")
    model.half().save_pretrained(folder)
    network = load_pretrained(folder).model
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    rounded = model.encoder.layer[0].attention.self.query.weight
    assert torch.equal(network.blocks[0].projections.query.weight, rounded.float())  # type: ignore[union-attr, index]


def test_the_pooling_of_a_checkpoint_of_sentences(tmp_path: Path) -> None:
    from tests.models.adapters.pretrained.tiny_models import as_sentence_model

    for mode, normalised in (("mean", True), ("cls", False), ("max", False)):
        folder = saved(tmp_path / mode, "bert")[0]
        as_sentence_model(folder, mode, normalised)
        network = load_pretrained(folder).model
        assert isinstance(network, Network) and network.config.length == 24
        assert (network.config.task, network.config.normalised) == ("embedding", normalised)
        inputs = network.example_inputs(3)
        hidden = load_pretrained(folder, task="feature-extraction", length=24).model
        with torch.no_grad():
            tokens = hidden.run_stages(inputs, {})[0].outputs["last_hidden_state"]
            vector = network.run(inputs, {}).outputs["sentence_embedding"]
        for row, real, given in zip(tokens, inputs["attention_mask"].sum(1), vector, strict=True):
            part = row[: int(real)]
            wanted = {"mean": part.mean(0), "cls": part[0], "max": part.amax(0)}[mode]
            wanted = wanted / wanted.norm() if normalised else wanted
            torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.skipif("ADAPTRT_MINILM" not in os.environ, reason="ADAPTRT_MINILM names no folder with all-MiniLM-L6-v2")
def test_minilm_is_exactly_what_transformers_computes() -> None:
    found = read_pretrained(os.environ["ADAPTRT_MINILM"])
    assert found.difference.largest <= 1e-6
    config = found.network.config
    assert (config.task, config.pooling, config.normalised, config.length) == ("embedding", "mean", True, 256)
    assert config.epsilon == 1e-12
