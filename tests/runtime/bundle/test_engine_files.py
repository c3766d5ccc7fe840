from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from adaptrt.runtime import BundleError
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import (
    ENGINE_FILE,
    EngineFile,
    EngineSet,
    EngineStage,
    build_command,
    check_source,
    encode_engines,
    engine_folder,
    read_engine,
    read_engines,
    read_prepared,
)
from tests.prepared_engines import prepare


@pytest.fixture
def folder(tiny):
    """Engines of the tiny bundle, its own graph standing for both files."""
    return prepare(
        tiny,
        "tensorrt",
        "fp16",
        convert=lambda model: model,
        build=lambda model: b"engine of " + model,
        engine_version="10.13.3.9",
        arch="87",
        flip_rate=0.01,
        quality=0.9,
    )


def refused(folder, match, *, by=(read_engines,)):
    for entry in by:
        with pytest.raises(BundleError, match=match) as caught:
            entry(folder)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000


def change(folder, alter):
    content = json.loads((folder / ENGINE_FILE).read_text())
    alter(content)
    (folder / ENGINE_FILE).write_text(json.dumps(content))


def test_reads_what_was_written(folder, tiny):
    engines = read_engines(folder)
    assert (engines.target, engines.precision, engines.arch, engines.flip_rate) == ("tensorrt", "fp16", "87", 0.01)
    assert encode_engines(engines) == (folder / ENGINE_FILE).read_bytes()
    assert folder == engine_folder(tiny, "tensorrt", "fp16") == tiny / "engines" / "tensorrt-fp16"
    (stage,) = engines.stages
    assert read_prepared(folder, stage) == (tiny / "model.onnx").read_bytes()
    assert read_engine(folder, stage) == b"engine of " + (tiny / "model.onnx").read_bytes()
    check_source(engines, read_bundle(tiny), folder)


def test_later_keys_are_ignored(folder):
    change(folder, lambda e: (e.update(novelty=1), e["stages"][0].update(novelty=2)))
    assert read_engines(folder).target == "tensorrt"


def test_truncated_at_every_length(folder):
    text = (folder / ENGINE_FILE).read_bytes()
    for length in [*range(0, 120), len(text) // 2, len(text.rstrip()) - 1]:
        (folder / ENGINE_FILE).write_bytes(text[:length])
        refused(folder, r"engine\.json: .*run `adaptrt build .* --target tensorrt --precision fp16`")


WRONG = [
    (lambda e: e.update(format_version=2), "format_version is 2, expected 1"),
    (lambda e: e.update(target="onnx"), "target 'onnx', expected one of openvino, tensorrt, tensorrt-rtx"),
    (lambda e: e.update(target="openvino"), "for openvino-fp16, expected 'tensorrt-fp16'"),
    (lambda e: e.update(precision="int4"), "precision 'int4', expected one of fp32, fp16"),
    (lambda e: e.update(plugins="lib"), "plugins 'lib', expected one of none, library, python"),
    (lambda e: e.update(engine_version="10 | rm"), "engine_version '10 | rm', expected a version"),
    (lambda e: e.update(engine_version=""), "engines without engine_version"),
    (lambda e: e.update(arch="sm_87"), "arch 'sm_87', expected compute capabilities"),
    (lambda e: e.update(stages=[]), "0 stages, expected 1 to"),
    (lambda e: e.update(flip_rate=1.5), "flip_rate 1.5, expected 0 to 1"),
    (lambda e: e.update(quality="good"), "Expected `float"),
    (lambda e: e["stages"][0].update(source_sha256="0"), "source_sha256 '0', expected 64"),
    (lambda e: e["stages"][0]["prepared"].update(sha256="A" * 64), "sha256 'A+', expected 64 lowercase"),
    (lambda e: e["stages"][0]["prepared"].update(file="../../model.onnx"), "expected a relative path inside"),
    (lambda e: e["stages"][0]["prepared"].update(file="/etc/passwd"), "expected a relative path inside"),
    (lambda e: e["stages"][0]["engine"].update(file="engine.json"), "expected a relative path inside"),
    (lambda e: e["stages"][0]["engine"].update(file="stage0.onnx"), "file 'stage0.onnx' twice"),
    (lambda e: e["stages"][0]["engine"].update(file="nowhere"), "'nowhere' is missing"),
    (lambda e: e["stages"].append({**e["stages"][0], "prepared": {"file": "x", "sha256": "0" * 64}, "engine": None}),
     "engines of 1 of 2 stages, expected all or none"),
]  # fmt: skip


@pytest.mark.parametrize(("alter", "match"), WRONG, ids=[match for _, match in WRONG])
def test_wrong_values(folder, alter, match):
    change(folder, alter)
    refused(folder, match + r".*run `adaptrt build")


def test_nan_is_not_written(folder):
    engines = read_engines(folder)
    with pytest.raises(BundleError, match="quality nan, expected a finite number"):
        encode_engines(msgspec.structs.replace(engines, quality=float("nan")))


@pytest.mark.parametrize("name", ["stage0.onnx", "stage0.engine"])
def test_altered_files(folder, name):
    file = folder / name
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    refused(folder, f"{name}.* was changed or damaged: sha256 is .*adaptrt build")
    engines = read_engines(folder, verify_hashes=False)
    read = read_prepared if name.endswith("onnx") else read_engine
    with pytest.raises(BundleError, match="was changed or damaged"):
        read(folder, engines.stages[0])
    file.unlink()
    refused(folder, "is missing, expected the file that engine.json names")


def test_weights_beside_a_prepared_graph_are_hashed(folder):
    engines = read_engines(folder)
    (folder / "weights.bin").write_bytes(b"weights")
    stage = msgspec.structs.replace(engines.stages[0], external_data=[EngineFile("weights.bin", "0" * 64)])
    with pytest.raises(BundleError, match="weights.bin.* was changed or damaged"):
        read_prepared(folder, stage)


def test_no_engine_built(folder):
    stage = msgspec.structs.replace(read_engines(folder).stages[0], engine=None)
    with pytest.raises(BundleError, match="is prepared, but no engine was built of it; run `adaptrt build"):
        read_engine(folder, stage)


def test_missing(tiny):
    refused(engine_folder(tiny, "openvino", "fp32"), r"no folder .*run `adaptrt build .* --target openvino`$")
    engine_folder(tiny, "openvino", "fp32").mkdir(parents=True)
    refused(engine_folder(tiny, "openvino", "fp32"), r"'engine\.json' is missing")


def test_links_that_leave_the_bundle(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file = folder / "stage0.onnx"
    outside = tmp_path / "elsewhere" / "stage0.onnx"
    shutil.move(file, outside)
    file.symlink_to(outside)
    refused(folder, "is a link that leaves the folder")
    moved = tmp_path / "elsewhere" / folder.name
    shutil.move(folder, moved)
    folder.symlink_to(moved)
    refused(folder, "a link that leaves the bundle")


def test_a_link_to_another_folder_of_the_bundle(folder):
    shutil.move(folder, folder.parent / "kept")
    folder.symlink_to("kept")
    assert read_engines(folder).target == "tensorrt"


def test_engines_of_another_export(folder, tiny):
    engines, bundle = read_engines(folder), read_bundle(tiny)
    stage = engines.stages[0]
    other = msgspec.structs.replace(engines, stages=[msgspec.structs.replace(stage, source_sha256="0" * 64)])
    with pytest.raises(BundleError, match="stage 0 was made of a file whose sha256 is 000000000000…, expected"):
        check_source(other, bundle, folder)
    two = msgspec.structs.replace(engines, stages=[stage, stage])
    with pytest.raises(BundleError, match="made of 2 stages, expected 1 as in the bundle"):
        check_source(two, bundle, folder)


def test_no_such_target(tiny):
    with pytest.raises(BundleError, match="got target 'onnx', expected one of openvino"):
        engine_folder(tiny, "onnx", "fp32")
    with pytest.raises(BundleError, match="got precision 'fp4'"):
        engine_folder(tiny, "tensorrt", "fp4")


def test_what_to_type():
    assert build_command(Path("a b"), "openvino", "fp32") == "adaptrt build 'a b' --target openvino"
    command = build_command(Path("b"), "tensorrt", "fp16", "library")
    assert command == "adaptrt build b --target tensorrt --precision fp16 --plugins library"


def test_absurd_size(folder, monkeypatch):
    monkeypatch.setattr("adaptrt.runtime.bundle.engine_files.MAX_ENGINE_FILE_BYTES", 10)
    refused(folder, "expected at most 10")


def test_a_minimal_set_is_encoded():
    stage = EngineStage("a" * 64, EngineFile("stage0.onnx", "b" * 64))
    text = encode_engines(EngineSet(1, "openvino", "fp32", "", "", "none", [stage]))
    assert json.loads(text)["stages"][0]["engine"] is None
