"""Models for Triton: their configurations, read by Triton's protobuf, and the graph whose knobs have defaults."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.repository import CONFIG_FILE, RepositoryReport, RepositorySettings, write_model
from adaptrt.export.targets.triton_config import TritonConfig, TritonTensor
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.serving.served_model import answer_specs
from tests.runtime.staged_reference import eighths

TESTS = Path(__file__).parent.parent.parent
FIXTURES = TESTS / "runtime" / "fixtures"
KIT = TESTS / "conformance" / "kit" / "bundles"
BUNDLES = [FIXTURES / name for name in ("tiny", "exits", "tokens", "texts")] + sorted(
    path for path in KIT.iterdir() if (path / "bundle.json").is_file()
)
DTYPES = {"TYPE_FP32": "float32", "TYPE_INT64": "int64", "TYPE_INT32": "int32", "TYPE_BOOL": "bool"}


def written(bundle: Path, repository: Path, target: str = "triton", **settings: Any) -> RepositoryReport:
    return write_model(bundle, RepositorySettings(target, repository, **settings))


def parsed(folder: Path) -> Any:
    return text_format.Parse((folder / CONFIG_FILE).read_text(), model_config_pb2.ModelConfig())


def described(tensors: Any, batched: bool) -> dict[str, tuple[str, list[int]]]:
    """Dtypes and shapes, with the axis of the batch in front where Triton puts one there."""
    told = {}
    for tensor in tensors:
        dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
        data_type = model_config_pb2.DataType.Name(tensor.data_type)
        told[tensor.name] = DTYPES[data_type], [-1, *dims] if batched else dims
    return told


def wanted(specs: Any) -> dict[str, tuple[str, list[int]]]:
    return {spec.name: (spec.dtype, [size if isinstance(size, int) else -1 for size in spec.shape]) for spec in specs}


@pytest.mark.parametrize("source", BUNDLES, ids=lambda path: path.name)
def test_names_shapes_and_dtypes_come_back(source: Path, tmp_path: Path) -> None:
    bundle = read_bundle(source)
    report = written(source, tmp_path)
    config = parsed(report.folder)
    batched = config.max_batch_size > 0
    assert config.name == report.model == report.folder.name == bundle.name and config.backend == "python"
    assert described(config.input, batched) == wanted(bundle.inputs)
    assert described(config.output, batched) == wanted(answer_specs(bundle))
    assert config.HasField("dynamic_batching") == batched and bool(report.notes) == (not batched)
    assert config.parameters["budget"].string_value == "full"
    assert load(report.folder / "1" / "bundle", threads=1).bundle == load(source, threads=1).bundle
    compile((report.folder / "1" / "model.py").read_text(), "model.py", "exec")


def test_both_kinds_are_among_the_bundles(tmp_path: Path) -> None:
    sizes = [parsed(written(source, tmp_path, max_batch=9).folder).max_batch_size for source in BUNDLES]
    assert 0 in sizes and 9 in sizes


@pytest.mark.parametrize("source", [FIXTURES / "tiny", FIXTURES / "texts", FIXTURES / "exported"])
def test_knobs_are_inputs_that_may_be_left_out(source: Path, tmp_path: Path) -> None:
    bundle = read_bundle(source)
    report = written(source, tmp_path, "triton-onnxruntime")
    config = parsed(report.folder)
    assert config.backend == "onnxruntime" and config.max_batch_size == 0 and report.folder.name == config.name
    required = [tensor for tensor in config.input if not tensor.optional]
    assert described(required, False) == wanted(bundle.inputs)
    assert [tensor.name for tensor in config.input if tensor.optional] == [knob.name for knob in bundle.knobs]
    assert described(config.output, False) == wanted(bundle.outputs)
    session = onnxruntime.InferenceSession(str(report.folder / "1" / "model.onnx"))
    # What Triton's backend compares the configuration with.
    assert {one.name for one in session.get_inputs()} == {tensor.name for tensor in required}
    assert {one.name for one in session.get_overridable_initializers()} == {knob.name for knob in bundle.knobs}
    assert {one.name for one in session.get_outputs()} >= {tensor.name for tensor in config.output}
    shapes = {one.name: one.shape for one in session.get_inputs()}
    for tensor in required:
        assert [size if isinstance(size, int) else -1 for size in shapes[tensor.name]] == list(tensor.dims)


@pytest.mark.parametrize("price", [None, 0.0, 0.3, 0.8, 1.0])
def test_the_graph_gives_the_answers_of_the_bundle(price: float | None, tmp_path: Path) -> None:
    folder = written(FIXTURES / "tiny", tmp_path, "triton-onnxruntime").folder
    session = onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
    x = eighths(3, 7, 4)
    fed = {"x": x} if price is None else {"x": x, "price": np.full(1, price, np.float32)}
    logits, share = session.run(["logits", "macs_fraction"], fed)
    result = load(FIXTURES / "tiny", threads=1).run({"x": x}, knobs={} if price is None else {"price": price})
    assert logits.tobytes() == result.outputs["logits"].tobytes()
    assert share.tobytes() == result.macs_fraction.tobytes()


def test_int8_is_copied_where_it_was_built(tmp_path: Path) -> None:
    report = written(FIXTURES / "int8", tmp_path, precision="int8")
    assert parsed(report.folder).parameters["precision"].string_value == "int8"
    assert load(report.folder / "1" / "bundle", precision="int8", threads=1).precision == "int8"
    with pytest.raises(ExportError, match="no engines/onnxruntime-int8 in .*; run adaptrt build .* --precision int8"):
        written(FIXTURES / "tiny", tmp_path / "other", precision="int8")
    assert not list((tmp_path / "other").iterdir())


def test_odd_names_survive_the_text() -> None:
    name = 'a "b" \\ é\n'
    config = TritonConfig(name, "python", 0, [TritonTensor(name, "TYPE_FP32", (-1,))], [], {"key": name})
    read = text_format.Parse(config.text(), model_config_pb2.ModelConfig())
    assert read.name == read.input[0].name == read.parameters["key"].string_value == name


def test_a_model_that_was_written_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    folder = written(FIXTURES / "tiny", tmp_path).folder
    before = sorted(folder.rglob("*"))
    written(FIXTURES / "tiny", tmp_path, max_batch=3)
    assert sorted(folder.rglob("*")) == before and parsed(folder).max_batch_size == 3
    for foreign in (folder / "mine.txt", folder / CONFIG_FILE):
        kept = folder.parent / "kept"
        shutil.copytree(folder, kept)
        foreign.write_text("mine")
        with pytest.raises(ExportError, match="holds other files, expected a model that `adaptrt build` wrote"):
            written(FIXTURES / "tiny", tmp_path)
        assert foreign.read_text() == "mine"
        shutil.rmtree(folder)
        kept.rename(folder)


def test_what_cannot_be_served_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    for source, target, told in (
        (FIXTURES / "exits", "triton-onnxruntime", "got 'exits' with 3 stages, expected one"),
        (FIXTURES / "tiny", "triton-onnxruntime", "got precision 'int8' for triton-onnxruntime, expected fp32"),
    ):
        with pytest.raises(ExportError, match=told):
            written(source, tmp_path, target, precision="int8" if "precision" in told else "fp32")
    assert not list(tmp_path.iterdir())
    bundle = Path(shutil.copytree(FIXTURES / "tiny", tmp_path / "tiny"))
    with pytest.raises(ExportError, match="in the bundle itself, expected another folder"):
        written(bundle, bundle / "models")
    other = Path(shutil.copytree(FIXTURES / "exits", tmp_path / "other" / "exits"))
    with pytest.raises(ExportError, match="exits, a bundle's folder, expected one for models of the server"):
        written(bundle, other)
    assert not (other / "tiny").exists()
    shutil.rmtree(other.parent)
    (bundle / "bundle.json").write_text((bundle / "bundle.json").read_text().replace('"tiny"', '"../tiny"', 1))
    with pytest.raises(ExportError, match=r"got a bundle named '../tiny', expected letters, digits"):
        written(bundle, tmp_path / "models")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
