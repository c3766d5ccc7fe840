"""What is no network of ours is refused in one line that says what it is and what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.pretrained.check import TOLERANCE, compare, require_same
from adaptrt.models.adapters.pretrained.load import build_network, load_pretrained, read_pretrained
from adaptrt.models.adapters.pretrained.observed import observe
from adaptrt.models.adapters.pretrained.rows import ROWS, PretrainedError, find_layers
from adaptrt.models.adapters.pretrained.task_choice import Choice
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from tests.models.adapters.pretrained.tiny_models import FAMILIES, POSITIONS, as_sentence_model, saved, tiny_model

pytestmark = pytest.mark.slow("builds models of transformers")

PLAIN = Choice("feature-extraction", "BertModel", "BertModel")


def refused(message: str) -> Any:
    return pytest.raises(PretrainedError, match=message)


def one_line(caught: pytest.ExceptionInfo[PretrainedError]) -> None:
    assert "\n" not in str(caught.value) and str(caught.value)


def bert(task: str = "feature-extraction") -> tuple[Any, Network]:
    model = tiny_model("bert")
    model.set_attn_implementation("eager")
    torch.manual_seed(2)
    return model, build_network(model, Choice(task, "BertModel", "BertModel"), {}).network


def difference_of(model: Any, network: Network) -> float:
    row, layers = find_layers(model)
    inputs = network.example_inputs(3)
    seen = observe(model, "", layers, row, inputs)
    difference = compare(network, inputs, seen, {"last_hidden_state": seen.outputs[0]})
    if difference.largest > TOLERANCE:
        with refused("BERT computes something that its layers' names do not say: values after layer 0") as caught:
            require_same(difference, "BERT")
        one_line(caught)
    return difference.largest


def swap_queries_and_keys(network: Network) -> None:
    p: Any = network.blocks[0].projections
    p.query, p.key = p.key, p.query


def other_activation(network: Network) -> None:
    from adaptrt.ops.activations import activation_named

    network.blocks[0].ffn.activation = activation_named("quick_gelu")  # type: ignore[union-attr, assignment]


def other_epsilon(network: Network) -> None:
    network.blocks[0].norm1.eps = 1e-3  # type: ignore[union-attr, assignment]


@pytest.mark.parametrize("damage", [swap_queries_and_keys, other_activation, other_epsilon])
def test_the_check_finds_what_is_wrong(damage: Callable[[Network], None]) -> None:
    model, network = bert()
    assert difference_of(model, network) <= TOLERANCE
    damage(network)
    assert difference_of(model, network) > TOLERANCE


def test_code_that_hides_behind_known_names_is_refused() -> None:
    model = tiny_model("bert")
    model.set_attn_implementation("eager")
    model.encoder.layer[1].attention.self.scaling *= 1.01
    with refused(
        "values after layer 1 differ from transformers' own by .* of the largest, expected at most 2e-05"
    ) as e:
        build_network(model, PLAIN, {})
    one_line(e)


def test_a_layer_with_a_parameter_beyond_its_row_is_refused(tmp_path: Path) -> None:
    import transformers

    sizes = {**FAMILIES["wav2vec2"][1]}
    torch.manual_seed(0)
    transformers.WavLMModel(transformers.WavLMConfig(**sizes)).save_pretrained(tmp_path)
    with refused("named as those of wav2vec2, HuBERT but also have .*rel") as caught:
        load_pretrained(tmp_path, length=400)
    one_line(caught)
    model = tiny_model("bert")
    model.encoder.layer[1].gain = torch.nn.Parameter(torch.ones(1))
    with refused("named as those of BERT.* but also have gain, expected no parameter beyond them"):
        find_layers(model)


def test_an_architecture_that_is_not_covered_hears_what_is(tmp_path: Path) -> None:
    import transformers

    config = transformers.DebertaV2Config(**POSITIONS, type_vocab_size=0)
    transformers.DebertaV2Model(config).save_pretrained(tmp_path)
    with refused("got DebertaV2Model, whose layers no row names, expected one of BERT") as caught:
        load_pretrained(tmp_path)
    one_line(caught)
    assert all(row.families in str(caught.value) for row in ROWS)


def test_layers_that_mix_patterns_are_refused() -> None:
    model = tiny_model("bert")
    model.set_attn_implementation("eager")
    hidden = torch.zeros(1, 1, 40, 40)
    hidden[..., 5, 7] = -1e9
    layer = model.encoder.layer[1]
    plain = layer.forward
    layer.forward = lambda x, *_, **__: plain(x, hidden)
    layer.register_forward_pre_hook(lambda _, given, __: ((given[0], hidden), {}), with_kwargs=True)
    with refused("a pattern of attention in encoder.layer.1 that is no window and not causal"):
        build_network(model, PLAIN, {})


def rewritten(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def without(folder: Path, name: str) -> None:
    path = folder / "model.safetensors"
    weights = {key: value for key, value in load_file(path).items() if key != name}
    save_file(weights, path, {"format": "pt"})


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "bert")
    without(folder, "pooler.dense.weight")
    load_pretrained(folder)  # nothing reads them
    rewritten(folder, architectures=["BertForSequenceClassification"])
    with refused(r"lacks \S*classifier|lacks \S*pooler") as caught:
        load_pretrained(folder)
    one_line(caught)
    rewritten(folder, architectures=["BertModel"])
    without(folder, "encoder.layer.1.output.dense.weight")
    with refused(r"the checkpoint of BertModel lacks encoder.layer.1.output.dense.weight of BertModel"):
        load_pretrained(folder)


def test_weights_beyond_the_models_are_named(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "bert")
    rewritten(folder, num_hidden_layers=1)
    with refused(r"has encoder.layer.1\S* and 15 more, which BertModel does not read") as caught:
        load_pretrained(folder)
    one_line(caught)


def test_layers_beyond_the_models_are_named_beside_a_head_that_is_left_over(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "bert", "BertForSequenceClassification")
    rewritten(folder, num_hidden_layers=1)
    with refused(r"has \S*encoder.layer.1\S* and 15 more, which BertModel does not read"):
        load_pretrained(folder, task="feature-extraction")


def test_a_head_for_another_task_may_be_left_over(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "bert", "BertForSequenceClassification")
    assert load_pretrained(folder, task="feature-extraction").model.task.name == "feature-extraction"


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"architectures": None}, {}, "names no architecture"),
        ({"architectures": ["BertForTheFuture"]}, {}, "got model class 'BertForTheFuture', expected a model of"),
        ({"architectures": ["pipeline"]}, {}, "got model class 'pipeline', expected a model of transformers"),
        ({}, {"task": "translation"}, "got task 'translation', expected one of text-classification"),
        ({}, {"length": 41}, "got texts of 41 tokens, expected 2 to 40"),
        ({}, {"model_class": "BertForTheFuture"}, "got model class 'BertForTheFuture'"),
        ({"hidden_act": "mish"}, {}, "got the activation 'mish', expected one of gelu"),
        ({"architectures": ["BertForMaskedLM"]}, {}, "got BertForMaskedLM, which is for fill-mask"),
    ],
)
def test_unusable_checkpoints_are_named(
    changes: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder, _ = saved(tmp_path, "bert")
    rewritten(folder, **changes)
    with refused(message) as caught:
        load_pretrained(folder, **options)
    one_line(caught)


def test_folders_without_their_files_are_named(tmp_path: Path) -> None:
    with refused("cannot read .*config.json"):
        load_pretrained(tmp_path / "nowhere")
    folder, _ = saved(tmp_path, "bert")
    (folder / "model.safetensors").unlink()
    with refused("transformers cannot load .* as BertModel") as caught:
        load_pretrained(folder)
    one_line(caught)


def test_a_head_that_reads_more_than_tokens_is_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "wav2vec2", "Wav2Vec2ForSequenceClassification", use_weighted_layer_sum=True)
    with refused("the head of Wav2Vec2ForSequenceClassification reads other things than the last layer's") as caught:
        load_pretrained(folder, length=400)
    one_line(caught)


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        ("bert", 32, "got the image size 32 for BertModel, expected a model of square images"),
        ("vit", 30, "got the image size 30, expected a multiple of the patches' 4 pixels"),
        ("beit", 24, "BeitModel cannot be resized from 16 to 24 pixels"),
    ],
)
def test_image_sizes_that_are_not_possible_are_refused(family: str, size: int, message: str, tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, family)
    with refused(message) as caught:
        load_pretrained(folder, image_size=size)
    one_line(caught)


def test_transcripts_with_another_blank_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "wav2vec2", "Wav2Vec2ForCTC", pad_token_id=3)
    with refused("got 3 as the blank among the symbols, expected 0") as caught:
        load_pretrained(folder, length=400)
    one_line(caught)


def test_an_encoder_of_a_model_that_writes_is_asked_for(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "whisper", "WhisperForConditionalGeneration")
    for task in (None, "automatic-speech-recognition"):
        with refused("which is for automatic-speech-recognition.*name the task 'feature-extraction'"):
            load_pretrained(folder, task=task)
    assert read_pretrained(folder, task="feature-extraction").network.config.encoder_only


@pytest.mark.parametrize("package", ["transformers", "optimum.exporters.tasks"])
def test_a_missing_package_names_its_extra(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = saved(tmp_path, "bert")
    monkeypatch.setitem(sys.modules, package, None)
    with refused(rf"{package.partition('.')[0]} cannot be imported .*: install adaptrt\[pretrained\]") as caught:
        load_pretrained(folder)
    one_line(caught)


def test_poolings_and_modules_that_are_not_covered_are_refused(tmp_path: Path) -> None:
    folder, _ = saved(tmp_path, "bert")
    as_sentence_model(folder, "mean", False)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "weightedmean"}')
    with refused("got the pooling weightedmean"):
        load_pretrained(folder)
    (folder / "modules.json").write_text('[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]')
    with refused("got the module 'Dense'") as caught:
        load_pretrained(folder)
    one_line(caught)


@pytest.mark.parametrize(
    ("family", "architecture", "message"),
    [
        ("bert", "BertForTokenClassification", "got pruning for token-classification, expected it left out: every"),
        ("bert", "BertForQuestionAnswering", "got pruning for question-answering"),
        ("bert", None, "got pruning for feature-extraction"),
        ("deit", "DeiTForImageClassificationWithTeacher", "reads two tokens, expected it left out: only the first"),
    ],
)
def test_pruning_is_refused_where_the_head_needs_its_tokens(
    family: str, architecture: str | None, message: str, tmp_path: Path
) -> None:
    network = load_pretrained(saved(tmp_path, family, architecture)[0]).model
    assert isinstance(network, Network)
    with pytest.raises(ValueError, match=message):
        adapt(network, network.example_inputs(2), pruning=PruningConfig((0,)))


def test_vectors_leave_early_by_a_learned_certainty_only() -> None:
    _, network = bert("embedding")
    with pytest.raises(ValueError, match="got exit criterion 'entropy' for embedding, expected 'certainty'"):
        adapt(network, network.example_inputs(2), exits=ExitConfig((1,), "entropy"))
    again = adapt(network, network.example_inputs(2), acm=ACMConfig(2), exits=ExitConfig((1,), "certainty")).eval()
    with torch.no_grad():
        stages = again.run_stages(network.example_inputs(2), {"price": torch.zeros(1)})
    assert stages[0].confidence is not None and 0 < float(stages[0].confidence.min()) < 1
