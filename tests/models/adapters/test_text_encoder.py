"""The text encoder: padding never takes part, whatever in it is adaptive, in evaluation and in training."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from adaptrt.models.adaptation import adapt
from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.block import Block
from adaptrt.models.families.acm import ACMConfig, AdaptiveFFN
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import Decision
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.tokens import Selection
from adaptrt.models.training import losses

LENGTH, WORDS = 12, 40
TINY = TextEncoderConfig(width=16, depth=4, heads=2, ffn_width=32, classes=3, vocabulary=WORDS, length=LENGTH)
ACM = ACMConfig(learners=4, gate_width=4)
FAMILIES: dict[str, dict[str, object]] = {
    "dense": {},
    "acm": {"acm": ACM},
    "argmax gates and projections": {"acm": ACMConfig(learners=2, gate="argmax", gate_width=4, projections=True)},
    "pruning": {"pruning": PruningConfig((0, 2))},
    "fixed pruning": {"pruning": PruningConfig((1,), "fixed")},
    "exits": {"exits": ExitConfig((1, 3), "patience")},
    "all": {
        "acm": ACM,
        "pruning": PruningConfig((0, 2)),
        "exits": ExitConfig((1, 3), "certainty"),
        "hard_budgets": True,
    },
}


def build(family: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network.from_config(dataclasses.replace(TINY, **FAMILIES[family])).eval()  # type: ignore[arg-type]


@pytest.fixture(params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> Network:
    return build(str(request.param))


PRICE = 0.5
"""Half-way between two of the gains that an untrained gate starts at (0.8, 0.6, 0.4, 0.2 with four learners): a price
at one of them makes every decision a tie, which rounding decides, another way on every make of CPU."""


def knobs_at(model: Network, price: float = PRICE, given: dict[str, list[int]] | None = None) -> dict[str, Tensor]:
    """A price in the middle, and integers as given or off."""
    found = {}
    for spec in model.knob_specs():
        value = torch.full(spec.shape, spec.default, dtype=getattr(torch, spec.dtype))
        if spec.name == "price":
            value.fill_(price)
        if given and spec.name in given:
            value = torch.tensor(given[spec.name], dtype=torch.int32)
        found[spec.name] = value
    return found


def texts(lengths: list[int], padded: int = LENGTH, seed: int = 1) -> dict[str, Tensor]:
    """Texts that are the same whatever they are padded to; what stands behind them is no word at all."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(WORDS, (len(lengths), LENGTH), generator=generator)
    mask = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    words = torch.where(mask, words, 10**12)
    return {"tokens": words[:, :padded], "mask": mask[:, :padded]}


def run(model: Network, inputs: dict[str, Tensor], **given: list[int]) -> NetworkOutput:
    with torch.no_grad():
        return model.run(inputs, knobs_at(model, given=given))


def test_a_text_padded_to_any_length_gives_the_same(model: Network) -> None:
    lengths = [5, 1, 3]
    whole = run(model, texts(lengths))
    for padded in range(5, LENGTH):
        cut = run(model, texts(lengths, padded))
        for one, other in zip(cut.stages, whole.stages, strict=True):
            torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.macs_fraction, other.macs_fraction, atol=1e-7, rtol=0)


def test_a_text_does_not_depend_on_its_batch(model: Network) -> None:
    lengths = [LENGTH, 4, 1, 7]
    inputs = texts(lengths)
    together = run(model, inputs)
    for row, length in enumerate(lengths):
        alone = run(model, {name: value[row : row + 1, :length] for name, value in inputs.items()})
        for one, whole in zip(alone.stages, together.stages, strict=True):
            torch.testing.assert_close(one.logits[0], whole.logits[row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(one.macs_fraction[0], whole.macs_fraction[row], atol=1e-7, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(list(FAMILIES)),
    holes=st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH),
    filler=st.integers(-(2**63), 2**63 - 1),
)
def test_what_stands_at_padded_places_is_not_read(family: str, holes: list[bool], filler: int) -> None:
    model, mask = build(family), torch.tensor([holes])
    mask[0, 0] = True
    words = texts([LENGTH])["tokens"]
    one = run(model, {"tokens": torch.where(mask, words, 0), "mask": mask})
    other = run(model, {"tokens": torch.where(mask, words, filler), "mask": mask})
    assert torch.equal(one.logits, other.logits) and torch.isfinite(one.logits).all()
    assert torch.equal(one.macs_fraction, other.macs_fraction)


def test_the_first_token_is_always_real(model: Network) -> None:
    inputs = texts([1, 4])
    nothing = {**inputs, "mask": inputs["mask"].clone()}
    nothing["mask"][0] = False
    assert torch.equal(run(model, nothing).logits, run(model, inputs).logits)


@pytest.mark.parametrize("family", ["dense", "acm", "exits"])
def test_an_empty_batch(family: str) -> None:
    out = run(build(family), {name: value[:0] for name, value in texts([3]).items()})
    assert out.logits.shape == (0, 3) and out.macs_fraction.shape == (0,)


def test_dense_work_by_hand() -> None:
    # Per token: projections and FFN; per pair: attention. Looking words up is no multiplication.
    per_token, per_pair, head = 4 * (4 * 16**2 + 2 * 16 * 32), 4 * 2 * 16, 16 * 3
    model = build("dense")
    assert model.dense_macs() == LENGTH * per_token + LENGTH**2 * per_pair + head
    lengths = np.arange(1, LENGTH + 1)
    found = run(model, texts(lengths.tolist())).macs_fraction.numpy()
    np.testing.assert_allclose(found, (lengths * per_token + lengths**2 * per_pair + head) / model.dense_macs(), 1e-6)
    assert found[-1] == pytest.approx(1, abs=1e-6)


def test_work_is_counted_for_what_ran() -> None:
    model = build("all")
    lengths = [LENGTH, 9, 4, 1]
    out = run(model, texts(lengths))
    present = [torch.tensor(lengths)]
    work = torch.full((4,), float(model.head.macs(last=True)))
    work += sum(head.macs(last=False) for head in model.exit_heads)
    decisions = iter(decision for stage in out.stages for decision in stage.decisions)
    for block in model.blocks:
        assert isinstance(block, Block) and isinstance(block.ffn, AdaptiveFFN)
        work += present[-1] * 4 * 16**2 + present[-1] ** 2 * 2 * 16
        if block.selector is not None:
            selection = next(decisions)
            assert isinstance(selection, Selection)
            present.append(selection.count)
            work += block.selector.macs(int(present[-2].max()), 8)
        decision = next(decisions)
        assert isinstance(decision, Decision)
        runs = decision.k.reshape(4, -1)
        real = torch.arange(runs.shape[1]) < present[-1][:, None]
        assert not runs[~real].any()
        work += present[-1] * block.ffn.gate.macs_per_token + runs.sum(1) * block.ffn.learners.macs_per_run
    np.testing.assert_allclose(out.macs_fraction, work / model.dense_macs(), rtol=1e-5)
    assert (present[-1] < present[0])[:2].any()  # something was pruned


def test_pruning_keeps_real_tokens_with_their_positions() -> None:
    model = build("all")
    lengths = [LENGTH, 6, 1]
    out = run(model, texts(lengths))
    positions = [set(range(length)) for length in lengths]
    for selection in out.selections:
        for row, count in enumerate(selection.count.tolist()):
            kept = selection.index[row, :count].tolist()
            assert 1 <= count <= len(positions[row]) and kept[0] == 0 and kept == sorted(set(kept))
            positions[row] = {sorted(positions[row])[place] for place in kept}
    carried = out.stages[1].carried
    for row in range(len(lengths)):
        assert set(carried["next_index"][row][carried["next_valid"][row]].tolist()) == positions[row]


@pytest.mark.parametrize("keep", [1, 3, LENGTH])
def test_a_hard_budget_takes_what_a_short_text_has(keep: int) -> None:
    model = build("all")
    lengths = [LENGTH, 5, 2]
    out = run(model, texts(lengths), keep=[keep, keep], capacity=[7] * 4)
    for selection in out.selections:
        assert selection.count.tolist() == [min(keep, length) for length in lengths]
    first = [min(7, 4 * min(keep, length)) for length in lengths]
    assert out.decisions[0].k.reshape(3, -1).sum(1).tolist() == first


def test_what_is_carried_is_what_is_announced() -> None:
    for family in ("exits", "all"):
        model = build(family)
        out = run(model, texts([LENGTH, 6]))
        for stage, made in enumerate(out.stages[:-1]):
            given = {**made.carried, "macs_fraction": made.macs_fraction}
            specs = model.carried_specs(stage + 1)
            assert {spec.source for spec in specs} == set(given)
            assert {"valid", "index"} <= {spec.tensor.name for spec in specs}
            for spec in specs:
                value = given[spec.source]
                assert value.dtype == getattr(torch, spec.tensor.dtype)
                sizes: dict[int | str, int] = {"batch": 2, "tokens": value.shape[1] if value.ndim > 1 else 0}
                assert list(value.shape) == [sizes.get(axis, axis) for axis in spec.tensor.shape]


def test_forward_is_all_stages_in_a_row(model: Network) -> None:
    inputs = texts([6, 2])
    read = {name: value for name, value in knobs_at(model).items() if name == "price"}
    with torch.no_grad():
        out = model(inputs["tokens"], inputs["mask"], **read)
        stages = model.run_stages(inputs, read)
    assert torch.equal(out.logits, stages[-1].logits) and len(out.stages) == len(model.stage_names) == len(stages)


def test_training_computes_what_evaluation_does() -> None:
    for family in ("dense", "exits"):
        model, inputs = build(family), texts([LENGTH, 5, 1])
        wanted = run(model, inputs)
        found = run(model.train(), inputs)
        for one, other in zip(found.stages, wanted.stages, strict=True):
            torch.testing.assert_close(one.logits, other.logits, atol=1e-5, rtol=1e-5)


def test_training_does_not_see_padding(model: Network) -> None:
    model.train()
    inputs = texts([7, 2])
    logits = []
    for padded in (7, LENGTH):
        words, mask = inputs["tokens"][:, :padded].clone(), inputs["mask"][:, :padded]
        words[~mask] = WORDS - 1
        words[mask] = words[mask].clamp(max=WORDS - 2)
        model.zero_grad()
        torch.manual_seed(3)
        out = model.run({"tokens": words, "mask": mask}, knobs_at(model, price=0.0))
        torch.stack([stage.logits.square().sum() for stage in out.stages]).sum().backward()
        assert model.embed.weight.grad is not None and model.position.weight.grad is not None
        assert not model.embed.weight.grad[WORDS - 1].any() and not model.position.weight.grad[7:].any()
        assert model.embed.weight.grad.any() and torch.isfinite(model.embed.weight.grad).all()
        logits.append(out.logits)
    if model.config.acm is None and model.config.pruning is None:  # the others draw noise for every token
        torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)


def test_losses_count_real_tokens_only() -> None:
    model = build("all").train()
    lengths = [LENGTH, 6, 2]
    inputs = texts(lengths)
    out = model.run(inputs, {"price": torch.full((3, 1), 0.5)})
    first, gate = out.selections[0], out.decisions[0]
    assert first.present is not None and first.present.sum(1).tolist() == lengths
    assert first.keeping is not None and gate.present is not None
    staying = (first.keeping * first.present).detach()
    torch.testing.assert_close(gate.present.reshape(3, -1), staying)
    assert first.count.tolist() == staying.sum(1).tolist()
    share = (gate.mask.mean(1).reshape(3, -1) * staying).sum(1) / staying.sum(1)
    torch.testing.assert_close(losses.utilisation(gate, LENGTH), share)
    kept = losses.kept_share(first, class_token=True)
    torch.testing.assert_close(kept, (staying.sum(1) - 1) / (torch.tensor(lengths) - 1))
    loss = functional.cross_entropy(out.logits, torch.tensor([0, 1, 2])) + share.mean() + kept.mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        if "gate." in name or "selector.threshold" in name:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("family", ["acm", "pruning", "exits", "all"])
def test_an_adapted_model_with_everything_running_is_the_dense_one(family: str) -> None:
    dense, inputs = build("dense"), texts([LENGTH, 7, 2])
    families = {name: part for name, part in FAMILIES[family].items() if name != "hard_budgets"}  # needs no training
    adaptive = adapt(dense, inputs, **families).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        found = adaptive.run(inputs, knobs_at(adaptive, price=0.0)).logits
    torch.testing.assert_close(found, run(dense, inputs).logits, atol=1e-4, rtol=1e-4)


def test_learners_start_from_real_tokens_only() -> None:
    dense, inputs = build("dense"), texts([5, 2, 1])
    short = {name: value[:, :5] for name, value in inputs.items()}
    one, other = (adapt(dense, given, acm=ACM).state_dict() for given in (inputs, short))
    for name, value in one.items():
        if "learners" in name:
            torch.testing.assert_close(value, other[name])


def test_examples_are_what_the_specification_says(model: Network) -> None:
    inputs = model.example_inputs(3)
    assert [spec.name for spec in model.input_specs()] == list(inputs) == ["tokens", "mask"]
    for spec in model.input_specs():
        assert inputs[spec.name].dtype == getattr(torch, spec.dtype)
        assert spec.shape == ("batch", "length") and inputs[spec.name].shape == (3, LENGTH)
    assert torch.isfinite(run(model, inputs).logits).all()


@pytest.mark.slow("traces every stage")
def test_its_exported_stages_take_texts_of_any_length() -> None:
    from adaptrt.export.graph.bodies import attach_bodies
    from adaptrt.export.graph.trace import trace_stage

    torch.manual_seed(0)
    changes = {**FAMILIES["all"], "pruning": PruningConfig((0,)), "exits": ExitConfig((1,))}
    model = Network.from_config(dataclasses.replace(TINY, depth=2, **changes)).eval()  # type: ignore[arg-type]
    graphs = [trace_stage(model, stage).graph for stage in range(len(model.stage_names))]
    for graph in graphs:
        attach_bodies(graph)
    sessions = [onnxruntime.InferenceSession(graph.SerializeToString()) for graph in graphs]
    read = {name: value.numpy() for name, value in knobs_at(model).items()}
    for lengths, padded in (([5, 1, 3], 5), ([7, LENGTH], LENGTH), ([1], 1)):
        inputs = texts(lengths, padded)
        fed = {name: value.numpy() for name, value in inputs.items()}
        for stage, wanted in enumerate(run(model, inputs).stages):
            session = sessions[stage]
            given = {taken.name: {**fed, **read}[taken.name] for taken in session.get_inputs()}
            names = [out.name for out in session.get_outputs()]
            found = dict(zip(names, session.run(None, given), strict=True))
            np.testing.assert_allclose(found["logits"], wanted.logits.numpy(), atol=1e-5)
            np.testing.assert_allclose(found["macs_fraction"], wanted.macs_fraction.numpy(), atol=1e-6)
            if stage + 1 < len(sessions):
                fed = {spec.tensor.name: found[spec.source] for spec in model.carried_specs(stage + 1)}
    for word, length in ((-1, 3), (WORDS, 3), (0, LENGTH + 1)):
        fed = {"tokens": np.full((1, length), word), "mask": np.ones((1, length), np.bool_)}
        with pytest.raises(Exception, match="indices element out of data bounds"):
            sessions[0].run(None, {taken.name: {**fed, **read}[taken.name] for taken in sessions[0].get_inputs()})


def test_texts_that_do_not_fit_are_refused() -> None:
    model, inputs = build("dense"), texts([3])
    with pytest.raises(ValueError, match="got texts of 13 tokens, expected 1 to 12; cut them"):
        run(model, {"tokens": torch.zeros(1, 13, dtype=torch.int64), "mask": torch.ones(1, 13, dtype=torch.bool)})
    with pytest.raises(ValueError, match="got texts of 0 tokens"):
        run(model, {name: value[:, :0] for name, value in inputs.items()})
    with pytest.raises(ValueError, match=r"got tokens of shape \[1, 12\] and a mask of shape \[1, 3\]"):
        run(model, {**inputs, "mask": inputs["mask"][:, :3]})
    for word in (-1, WORDS):
        with pytest.raises(IndexError):
            run(model, {**inputs, "tokens": torch.where(inputs["mask"], word, 0)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_token": False}, "without class token"),
        ({"pruning": PruningConfig((1,), "merge")}, "got pruning rule 'merge' for texts"),
        ({"vocabulary": 0}, "vocabulary of at least 1"),
        ({"length": 1}, "texts of at least 2 tokens"),
        ({"exits": ExitConfig((4,))}, "got an exit after block 4 of 4"),
    ],
)
def test_configurations_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)  # type: ignore[arg-type]
