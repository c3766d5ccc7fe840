"""From a model to a bundle: scale, trace, prove, write, calibrate."""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from adaptrt.export.calibration.calibrate import POINTS, Progress, calibrate_loaded, calibration_work, untold
from adaptrt.export.calibration.family_scales import fit_family_scales
from adaptrt.export.calibration.stage_records import split_feeds
from adaptrt.export.calibration.workers import chosen_workers, opened
from adaptrt.export.description import describe_bundle, input_specs
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.export.graph.trace import TracedStage, trace_dense
from adaptrt.export.parity.check import (
    check_parity,
    gives_everything,
    golden_samples,
    parity_inputs,
    parity_settings,
    require_dense,
    run_written,
)
from adaptrt.export.parity.comparison import ParityReport
from adaptrt.export.parity.graph_macs import check_dense_macs, check_work
from adaptrt.export.parity.padding import is_mask
from adaptrt.export.parity.reference import GOLDEN_FILE, Reference, encode_golden, run_reference
from adaptrt.export.preprocessing.folder import add_preprocessing, read_preprocessing
from adaptrt.export.staging import check_replaceable, staged_folder, write_file
from adaptrt.models.data.split import DataSplits
from adaptrt.models.folder import LoadedModel
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import (
    BUNDLE_FILE,
    CurvePoint,
    Dense,
    encode_bundle,
)

DENSE_FILE = "dense.onnx"
COUNTED_SAMPLES = 8
"""Of which the work is counted from the graphs' own products."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made and proved.

    Attributes:
        bundle_folder: Where the bundle is.
        parity: Torch against ONNX Runtime.
        curve: Points of the calibration; empty without calibration data.
        quality_metric: What their quality is; None without them.
    """

    bundle_folder: Path
    parity: ParityReport
    curve: list[CurvePoint]
    quality_metric: str | None = None


def export_bundle(
    source: LoadedModel,
    output: Path,
    *,
    calibration: DataSplits | None,
    debug: bool = False,
    hard_budgets: bool = False,
    points: int = POINTS,
    evaluations: int | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a model as a bundle; a bundle that stood there is replaced only when all has succeeded.

    Passes over the calibration data that an interrupted export had finished are not made again.

    Args:
        source: The model. It stays as it is: what is exported is a copy.
        output: Folder of the bundle.
        calibration: Data to calibrate with; None leaves the curve empty.
        debug: Adds the output ``learners`` (int32 ``[B, L, T]``).
        hard_budgets: Adds the knobs ``capacity`` and ``keep``, by which every input costs the same; the ranking that
            they need costs a few percent of the time at batch 1, also where they are off.
        points: Points of the curve, of each chain where there are several families.
        evaluations: Passes over the calibration data at most, where there are several families.
        workers: Processes that run calibration and test data; see ``calibrate_bundle``.
        progress: Told what is being done.

    Raises:
        ExportError: The model is dense, or ``output`` cannot be written or is no bundle.
        ParityError: A graph differs from torch, the work that the model counts is not what its graphs compute, or
            the bundle as written gives something else.
        CalibrationError: The data does not fit, ``workers`` is below 1, or one of them died.
    """
    tell, output = progress or untold, Path(output)
    source = _prepared(source, hard_budgets=hard_budgets)
    check_replaceable(output)
    # Beside the bundle, which is written elsewhere first: an export that was interrupted goes on from it.
    journal = output.with_name(f".{output.name}.calibration.jsonl")
    if calibration is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        scaled(source, calibration, tell, workers)
    stages, ops = trace_stages(source.model, debug=debug, progress=tell)
    proof = prove(source, stages, calibration, tell)
    with staged_folder(output) as folder:
        files, dense = save_stages(stages, folder), _write_dense(source, folder, tell)
        if source.model.dense_gives_everything and len(stages) > 1:
            same = gives_everything(folder / DENSE_FILE, proof.golden[0])
            dense = msgspec.structs.replace(dense, unsplit=same)
        elif source.model.made_from_dense and source.dense is not None:
            require_dense(folder / DENSE_FILE, run_reference(source.dense, proof.golden[0].inputs, {}))
            dense = msgspec.structs.replace(dense, answers_full=True)
        write_file(folder / GOLDEN_FILE, encode_golden(proof.golden))
        bundle = describe_bundle(source, stages, files, ops, dense, debug=debug)
        if source.preprocessing is not None:
            recipes = read_preprocessing(source.preprocessing, bundle.inputs, bundle.axes)
            bundle = add_preprocessing(bundle, recipes, folder)
        encode_bundle(bundle)  # what nobody could load is refused before it is calibrated
        if calibration is not None:
            count = chosen_workers(workers, calibration_work(bundle, calibration, points, evaluations))
            with opened(folder, bundle, count) as running:
                bundle = calibrate_loaded(
                    running,
                    folder,
                    calibration,
                    points=points,
                    evaluations=evaluations,
                    progress=tell,
                    journal=journal,
                    task=source.model.task,
                    rule=source.model.exit_rule,
                )
        write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
        run_written(folder, proof.golden, tell)
    journal.unlink(missing_ok=True)
    return ExportReport(output, proof.parity, bundle.curve, bundle.quality_metric)


def _prepared(source: LoadedModel, *, hard_budgets: bool) -> LoadedModel:
    """A copy that the export may change: scales and hard budgets do.

    Raises:
        ExportError: It is no network, dense, or cannot have hard budgets.
    """
    _require_model(source.model)
    source = dataclasses.replace(source, model=copy.deepcopy(source.model))
    if not source.model.adaptive:
        raise ExportError(f"model {source.name!r} is dense, expected one with adaptive modules; adapt it first")
    if hard_budgets:
        _enable_hard_budgets(source)
    return source


def scaled(source: LoadedModel, data: DataSplits, tell: Progress, workers: int | None = None) -> None:
    """Give the network's families one price, where it has several, after a look at whether the data fits.

    Raises:
        CalibrationError: The data does not fit.
    """
    for split in (data.calibration, data.test):
        split_feeds(input_specs(source.model), split)
    with tempfile.TemporaryDirectory() as scratch:
        fit_family_scales(source, Path(scratch), data, workers=workers, progress=tell)


@dataclass(frozen=True)
class Proof:
    """What was proved of traced stages, and torch's runs to prove it again with.

    Attributes:
        parity: Torch against ONNX Runtime.
        golden: Torch's runs.
    """

    parity: ParityReport
    golden: list[Reference]


def prove(source: LoadedModel, stages: list[TracedStage], data: DataSplits | None, tell: Progress) -> Proof:
    """Compare the graphs with torch, and the work that they say with what they compute.

    Raises:
        ParityError: Either differs.
    """
    model = source.model
    inputs = parity_inputs(model, data)
    settings = parity_settings(model, inputs)
    parity = check_parity(model, stages, inputs, settings, tell).require(f"parity of {source.name!r}")
    tell("counting the work anew", 0.0)
    counted = {name: array[:COUNTED_SAMPLES] for name, array in inputs.items()}
    check_work(stages, counted, settings, model.dense_macs_of(counted))
    one = run_reference(model, {name: array[:1] for name, array in inputs.items()}, settings[0])
    samples = golden_samples(one, len(settings))
    kept = {name: array[:samples] for name, array in inputs.items()}
    return Proof(parity, [run_reference(model, kept, setting) for setting in settings])


def _require_model(model: object) -> None:
    """Check that this is a network which computes in float32."""
    if not isinstance(model, StagedNetwork):
        raise ExportError(
            f"got a {type(model).__name__}, expected a network of adaptrt.models, which says what its stages "
            "hand on; derive from StagedNetwork or Adaptive"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ExportError(
                f"got {str(parameter.dtype).removeprefix('torch.')} in {name}, expected float32; call model.float()"
            )


def _enable_hard_budgets(source: LoadedModel) -> None:
    try:
        source.model.enable_hard_budgets()
    except ValueError as error:
        raise ExportError(f"{source.name!r}: {error}") from error


def _counted_sample(dense: StagedNetwork) -> dict[str, npt.NDArray[Any]]:
    """A sample that the dense work is counted for: of texts all tokens are real."""
    sample = {name: tensor.numpy() for name, tensor in dense.example_inputs(1).items()}
    if dense.work_tokens is not None:
        cut = {
            spec.name: tuple(slice(dense.work_tokens if axis == dense.token_axis else None) for axis in spec.shape)
            for spec in dense.input_specs()
        }
        sample = {name: array[cut[name]] for name, array in sample.items()}
    return {name: np.ones_like(array) if is_mask(name, array) else array for name, array in sample.items()}


def _write_dense(source: LoadedModel, folder: Path, tell: Progress) -> Dense:
    """Describe the dense model and, where its weights are there, write its graph for comparison."""
    macs, dense = source.model.dense_macs(), source.dense
    if dense is None:
        return Dense(macs=macs, parameters=source.model.dense_parameters())
    tell("tracing the dense model", 0.0)
    graph = trace_dense(dense)
    check_dense_macs(graph, _counted_sample(dense), macs)
    stage = save_graph(graph, folder / DENSE_FILE)
    return Dense(
        macs=macs,
        parameters=sum(parameter.numel() for parameter in dense.parameters()),
        file=stage.file,
        sha256=stage.sha256,
        external_data=stage.external_data,
    )
