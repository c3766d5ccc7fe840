"""Further networks beside a bundle: judged as torch answers, at the work they do, and refused where they do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from adaptrt import AdaptrtError
from adaptrt.bench.errors import BenchError
from adaptrt.bench.reports.result_json import write_json
from adaptrt.bench.reports.rivals_plot import plot_rivals
from adaptrt.bench.rivals import static_models
from adaptrt.bench.rivals.comparison import compare_rivals
from adaptrt.bench.rivals.further_networks import keep_settings, named_rivals, read_rival, rival_name
from adaptrt.bench.rivals.result import read_comparison
from adaptrt.export.graph.trace import trace_dense
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import load_folder, save_model
from adaptrt.models.network import Network
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import Knob, read_bundle

DENSE = ViTConfig(width=32, depth=2, heads=2, ffn_width=64)
SHALLOW = dataclasses.replace(DENSE, depth=1)
KEPT = dataclasses.replace(DENSE, pruning=PruningConfig((0, 1), "fixed"))


def write(folder: Path, config: ViTConfig, *, dense: bool = False) -> Path:
    torch.manual_seed(1)
    own = Network.from_config(config).eval()
    beside = Network.from_config(dataclasses.replace(config, pruning=None, acm=None)).eval() if dense else None
    save_model(folder, own, beside, "digits", torch.float32)
    return folder


@pytest.fixture
def data() -> DataSplits:
    generator = np.random.default_rng(3)
    split = Split(generator.random((60, 1, 8, 8), dtype=np.float32), generator.integers(0, 10, 60))
    return DataSplits("noise", split, split)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def torch_accuracy(folder: Path, split: Split) -> float:
    model = load_folder(folder, "own", dense_too=True).model
    with torch.no_grad():
        logits = model.run_stages({"pixels": torch.from_numpy(split.inputs)}, {})[-1].outputs["logits"]
    return float((logits.argmax(1).numpy() == split.labels).mean())


def test_they_are_measured_as_what_they_are(
    exported: Path, tmp_path: Path, data: DataSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_models, "BACKENDS", {DEFAULT_BACKEND: BACKENDS[DEFAULT_BACKEND]})
    monkeypatch.setattr("adaptrt.bench.rivals.comparison._SECONDS", 0.01)
    folders = {"shallow": write(tmp_path / "shallow", SHALLOW), "evit": write(tmp_path / "evit", KEPT, dense=True)}
    before = files(tmp_path)
    result = compare_rivals(exported, data, batches=(1,), points=3, samples=60, rivals=folders)
    assert files(tmp_path) == before  # exports and int8 went elsewhere
    assert not result.left_out
    found = {name: [e for e in result.entries if e.name == name] for name in {e.name for e in result.entries}}
    (shallow,) = found["shallow float32"]
    assert shallow.quality == pytest.approx(torch_accuracy(folders["shallow"], data.test))
    whole = Network.from_config(DENSE).dense_macs()
    assert shallow.work == pytest.approx(Network.from_config(SHALLOW).dense_macs() / whole)
    assert shallow.work is not None and shallow.work < 0.8
    assert {"shallow int8", "shallow int8, quantize_dynamic"} <= found.keys() and not shallow.adaptive
    for name in ("evit float32", "evit int8"):
        works = [entry.work or 0.0 for entry in found[name]]
        assert len(works) == 3 and works == sorted(works) and works[0] < 0.9 * works[-1]
        assert [list(entry.knobs) for entry in found[name]] == [["keep"], ["keep"], []]
    assert found["evit float32"][-1].quality == pytest.approx(torch_accuracy(folders["evit"], data.test))
    write_json(result, tmp_path / "rivals.json")
    back = read_comparison(tmp_path / "rivals.json")
    assert [e.name for e in back.entries] == [e.name for e in result.entries]
    assert back.entries[0].latency_ms[1].median == pytest.approx(result.entries[0].latency_ms[1].median, 1e-5)
    plot_rivals(back, tmp_path / "rivals.svg")
    assert (tmp_path / "rivals.svg").read_bytes().startswith(b"<?xml")


def test_a_graph_too_small_for_int8_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = Network.from_config(dataclasses.replace(DENSE, width=8, ffn_width=8, depth=1)).eval()
    samples = {"pixels": np.zeros((2, 1, 8, 8), np.float32)}
    with pytest.raises(AdaptrtError, match="int8"):
        static_models.in_int8(trace_dense(tiny), [samples], tmp_path / "tiny.onnx")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (dataclasses.replace(DENSE, classes=3), r"outputs logits float32 \[batch, 3\], expected logits .*10\]"),
        (dataclasses.replace(DENSE, image_size=4), r"inputs pixels float32 \[batch, 1, 4, 4\], expected pixels"),
        (dataclasses.replace(DENSE, acm=ACMConfig(learners=2)), "with the knobs price, expected a dense network"),
    ],
)
def test_what_cannot_stand_beside_it(exported: Path, tmp_path: Path, config: ViTConfig, said: str) -> None:
    with pytest.raises(BenchError, match=said) as refusal:
        read_rival("other", write(tmp_path / "other", config), read_bundle(exported))
    assert "\n" not in str(refusal.value)


def test_a_bundle_that_is_adaptive_and_no_folder(exported: Path, tmp_path: Path) -> None:
    bundle = read_bundle(exported)
    with pytest.raises(BenchError, match="knobs price, expected a dense network"):
        read_rival("itself", exported, bundle)
    with pytest.raises(BenchError, match="expected the folder of a trained network"):
        read_rival("nothing", tmp_path / "nothing", bundle)
    with pytest.raises(BenchError, match="for the task 'classification', expected 'embedding'"):
        read_rival("shallow", write(tmp_path / "n", SHALLOW), msgspec.structs.replace(bundle, task="embedding"))


def test_names(tmp_path: Path) -> None:
    assert rival_name(tmp_path / "narrow96" / "model") == "narrow96" and rival_name(tmp_path / "merge") == "merge"
    assert list(named_rivals([tmp_path / "a", tmp_path / "b" / "bundle"])) == ["a", "b"]
    for twice in ([tmp_path / "a", tmp_path / "x" / "a"], [tmp_path / "dense"]):
        with pytest.raises(BenchError, match="got a second network called .*rename"):
            named_rivals(twice)


@pytest.mark.parametrize("selections", [1, 3, 6])
def test_tokens_that_are_kept(selections: int, exported: Path) -> None:
    knob = Knob("keep", "int32", [selections], -1.0, 50.0, -1.0)
    settings = keep_settings(msgspec.structs.replace(read_bundle(exported), knobs=[knob]), 5)
    assert len(settings) == 5 and settings[-1].knobs == {}
    last = [setting.knobs["keep"][-1] for setting in settings[:-1]]  # type: ignore[index]
    assert last == sorted(last) and 2 <= last[0] <= 8
    assert all(list(s.knobs["keep"]) == sorted(s.knobs["keep"], reverse=True) for s in settings[:-1])  # type: ignore[arg-type]


def test_dense_folders_are_read_where_they_will_do(tmp_path: Path) -> None:
    folder = write(tmp_path / "shallow", SHALLOW)
    assert not load_folder(folder, "shallow", dense_too=True).model.adaptive
    with pytest.raises(Exception, match="nothing adaptive in it"):
        load_folder(folder, "shallow")
