"""Exports that would be wrong though torch and the graphs agree: work counted wrongly, bundles that do not load."""

import dataclasses

import msgspec
import pytest
import torch

from adaptrt.export import exporter
from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.trace import trace
from adaptrt.models.work import WorkCount
from adaptrt.runtime import BundleError
from tests.export.conftest import source

pytestmark = pytest.mark.slow("traces what each test changed")


@pytest.mark.parametrize("wrong", [lambda total: torch.full_like(total, 0.1), lambda total: total * 1.01])
def test_a_model_that_counts_its_work_wrongly_is_refused(tmp_path, monkeypatch, wrong):
    """Torch and the graph agree on the wrong number: parity alone does not see it."""
    usual = WorkCount.total
    monkeypatch.setattr(WorkCount, "total", lambda *given: wrong(usual(*given)))
    with pytest.raises(
        ParityError, match=r"macs_fraction says .* of the dense work .*mend the model's count"
    ) as caught:
        export_bundle(source(), tmp_path / "out", calibration=None)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_wrong_count_of_the_dense_work_is_refused(tmp_path, monkeypatch):
    loaded = source()
    right = loaded.model.dense_macs()
    monkeypatch.setattr(type(loaded.model), "dense_macs", lambda _: right + 1)
    with pytest.raises(ParityError, match=f"{right + 1}.*expected"):
        export_bundle(loaded, tmp_path / "out", calibration=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("shared_traces")
def test_a_bundle_that_cannot_be_loaded_is_no_success(tmp_path, monkeypatch):
    """What is written is loaded and run before the old bundle is replaced."""
    real = exporter.describe_bundle

    def misdescribed(*given, **settings):
        bundle = real(*given, **settings)
        logits = msgspec.structs.replace(bundle.outputs[0], shape=["batch", 77])
        return msgspec.structs.replace(bundle, outputs=[logits, *bundle.outputs[1:]])

    monkeypatch.setattr(exporter, "describe_bundle", misdescribed)
    with pytest.raises(BundleError, match="'logits' is float32"):
        export_bundle(source(), tmp_path / "out", calibration=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("shared_traces")
def test_what_is_written_has_to_give_torch_s_answers(tmp_path, monkeypatch):
    real = exporter.run_reference

    def changed(*given):
        reference = real(*given)
        last = dataclasses.replace(reference.stages[-1], outputs={"logits": reference.outputs["logits"] + 1})
        return dataclasses.replace(reference, stages=[*reference.stages[:-1], last])

    monkeypatch.setattr(exporter, "run_reference", changed)  # of the golden runs; parity has its own
    with pytest.raises(ParityError, match=r"the bundle as written gives logits that differ by 1\.00e\+00 in stage 0"):
        export_bundle(source(), tmp_path / "out", calibration=None)


def test_a_head_that_gives_a_map_is_refused():
    """Its second axis was taken for classes, parity passed, and nobody could load the bundle."""
    loaded = source()
    usual = loaded.model.run_stage

    def with_map(*given, **settings):
        out = usual(*given, **settings)
        return out._replace(outputs={"logits": out.logits[:, :, None, None].expand(-1, -1, 2, 2)})

    loaded.model.run_stage = with_map
    with pytest.raises(
        ExportError, match=r"got logits of shape \[3, \d+, 2, 2\] in stage 0, expected 2 dimensions, the batch first"
    ):
        trace(loaded.model)
