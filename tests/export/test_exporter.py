"""Exports: whole bundles or none, whatever happens on the way."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from adaptrt.export import exporter, staging
from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import ExportReport, export_bundle
from adaptrt.export.graph import saved_graph
from adaptrt.models import LoadedModel, Network
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import read_bundle
from tests.export.conftest import SHAPE, source, tiny_data

pytestmark = [pytest.mark.slow("exports, and kills an export"), pytest.mark.usefixtures("shared_traces")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_is_complete(exported: ExportReport) -> None:
    folder = exported.bundle_folder
    assert {path.name for path in folder.iterdir()} == {
        "bundle.json",
        "model.onnx",
        "dense.onnx",
        "golden.npz",
    }
    bundle = read_bundle(folder)
    assert (bundle.name, bundle.format_version, bundle.ops) == ("tiny", 2, {"ConditionalMLP": 4})
    assert bundle.dense.macs == source().model.dense_macs()
    knob = bundle.knobs[0]
    assert (knob.name, knob.minimum, knob.maximum, knob.default) == ("price", 0.0, 1.0, 0.0)
    assert bundle.dense.quality is not None and bundle.quality_metric == "accuracy"
    assert not list(folder.parent.glob(".*"))


def test_without_data_the_curve_is_empty(tmp_path: Path) -> None:
    report = export_bundle(LoadedModel("bare", source().model, None, None), tmp_path / "bare", calibration=None)
    bundle = read_bundle(report.bundle_folder)
    assert bundle.curve == [] and bundle.dense.file is None and report.parity.passed


def test_the_dense_model_is_described_without_its_weights(tmp_path: Path) -> None:
    model, dense = source().model, source().dense
    assert dense is not None
    export_bundle(LoadedModel("bare", model, None, None), tmp_path / "bare", calibration=None)
    described = read_bundle(tmp_path / "bare").dense
    assert described.parameters == sum(parameter.numel() for parameter in dense.parameters())
    assert described.macs == model.dense_macs()


def test_debug_adds_the_learners(tmp_path: Path) -> None:
    export_bundle(source(), tmp_path / "debug", calibration=None, debug=True)
    result = load(tmp_path / "debug").run({"pixels": np.zeros((2, 1, 4, 4), np.float32)})
    learners = result.outputs["learners"]
    assert learners.shape == (2, 2, 4) and learners.dtype == np.int32 and (learners == 4).all()


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_graph, "EXTERNAL_DATA_FROM", 1000)
    export_bundle(source(), tmp_path / "large", calibration=tiny_data(), points=3)
    bundle = read_bundle(tmp_path / "large")
    assert [data.file for data in bundle.stages[0].external_data] == ["model.onnx.data"]
    assert [data.file for data in bundle.dense.external_data] == ["dense.onnx.data"]
    (tmp_path / "large" / "model.onnx.data").write_bytes(b"\0" * 10)
    with pytest.raises(Exception, match="sha256|bytes"):
        load(tmp_path / "large")


def test_a_dense_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is dense, expected one with adaptive modules"):
        export_bundle(
            LoadedModel("dense", Network.from_config(SHAPE).eval(), None, None), tmp_path / "dense", calibration=None
        )
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(ExportError, match="other content and no bundle.json"):
        export_bundle(source(), tmp_path / "letters", calibration=None)
    with pytest.raises(ExportError, match="is a file, expected a folder"):
        export_bundle(source(), tmp_path / "letters" / "dear.txt", calibration=None)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_files_of_others_in_a_bundle_are_not_swept_away(bundle: Path) -> None:
    (bundle / "bench.json").write_text("{}")  # ours: a measurement of the old bundle
    (bundle / "notes.txt").write_text("keep me")
    with pytest.raises(ExportError, match="holds 'notes.txt', expected nothing but a bundle"):
        export_bundle(source(), bundle, calibration=None)
    (bundle / "notes.txt").unlink()
    export_bundle(source(), bundle, calibration=None)
    assert not (bundle / "bench.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "lost")])
def test_an_error_between_the_two_renames_puts_the_old_bundle_back(
    bundle: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises((KeyboardInterrupt, ExportError)):
        export_bundle(source(), bundle, calibration=None)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_an_export_at_work_beside_is_left_alone(bundle: Path) -> None:
    with staging.staged_folder(bundle) as working:
        (working / "half").write_text("done")
        export_bundle(source(), bundle, calibration=None)
        assert (working / "half").read_text() == "done"
        neighbour = bundle.parent / ".tiny.v2.abcdefgh.partial"
        neighbour.mkdir()
        export_bundle(source(), bundle, calibration=None)
        assert neighbour.is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("lost"), ParityError("differs")])
@pytest.mark.parametrize("point", ["check_parity", "save_graph", "calibrate_loaded"])
def test_a_failed_export_leaves_the_old_bundle(
    bundle: Path, point: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(exporter, point, fail)
    with pytest.raises(type(error)):
        export_bundle(source(), bundle, calibration=tiny_data(), points=3)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_full_disk_is_named_and_leaves_the_old_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    wanted = f"no space left while writing {bundle}; nothing was changed, free some space and try again"
    with pytest.raises(ExportError, match=wanted):
        export_bundle(source(), bundle, calibration=tiny_data(), points=3)
    assert contents(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 64 KiB, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root; the simulated full disk is tested above")
    try:
        with pytest.raises(ExportError, match="no space left"):
            export_bundle(source(), disk / "tiny", calibration=tiny_data(), points=3)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot write .*; nothing was changed, choose another output"):
        export_bundle(source(), tmp_path / "file" / "below", calibration=None)


_KILLED = """
import sys
from pathlib import Path
from adaptrt.export import exporter, staging
from adaptrt.export.graph import saved_graph
from adaptrt.export.graph import stage_files as graph_files
from tests.export.conftest import source, tiny_data
original = exporter.write_file
def slow(path, content):
    original(path, content)
    print("writing", flush=True)
    import time
    time.sleep(60)
exporter.write_file = slow
exporter.export_bundle(source(), Path(sys.argv[1]), calibration=tiny_data(), points=3)
"""


def test_a_killed_export_leaves_the_old_bundle_and_the_next_one_cleans_up(bundle: Path) -> None:
    before = contents(bundle)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(bundle)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    assert contents(bundle) == before
    assert len(list(bundle.parent.glob(".tiny.*.partial"))) == 1
    time.sleep(0.01)
    export_bundle(source(), bundle, calibration=None)
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
