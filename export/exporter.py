"""From a model to a bundle: trace, attach bodies, prove parity, calibrate, write."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import adaptrt
from adaptrt.export.calibration.calibrate import POINTS, Progress, calibrate_loaded, untold
from adaptrt.export.calibration.family_scales import fit_family_scales
from adaptrt.export.calibration.stage_records import split_feeds
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.export.graph.trace import TracedStage, trace_dense
from adaptrt.export.parity.check import check_parity, golden_samples, parity_inputs, parity_settings, run_written
from adaptrt.export.parity.comparison import ParityReport
from adaptrt.export.parity.graph_macs import check_dense_macs, check_work
from adaptrt.export.parity.reference import GOLDEN_FILE, encode_golden, run_reference
from adaptrt.export.staging import check_replaceable, staged_folder, write_file
from adaptrt.models.data.split import DataSplits
from adaptrt.models.folder import LoadedModel
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.bundle.bundle_file import (
    BUNDLE_FILE,
    FORMAT_VERSION,
    Axis,
    Bundle,
    CurvePoint,
    Dense,
    ImagePreprocessing,
    Knob,
    Stage,
    TensorSpec,
    TokenSet,
    encode_bundle,
)
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB

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
    """

    bundle_folder: Path
    parity: ParityReport
    curve: list[CurvePoint]


def export_bundle(
    source: LoadedModel,
    output: Path,
    *,
    calibration: DataSplits | None,
    debug: bool = False,
    hard_budgets: bool = False,
    points: int = POINTS,
    evaluations: int | None = None,
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
        progress: Told what is being done.

    Raises:
        ExportError: The model is dense, or ``output`` cannot be written or is no bundle.
        ParityError: A graph differs from torch, the work that the model counts is not what its graphs compute, or
            the bundle as written gives something else.
        CalibrationError: The data does not fit.
    """
    _require_model(source.model)
    source = dataclasses.replace(source, model=copy.deepcopy(source.model))  # scales and hard budgets change it
    tell, model, output = progress or untold, source.model, Path(output)
    # Beside the bundle, which is written elsewhere first: an export that was interrupted goes on from it.
    journal = output.with_name(f".{output.name}.calibration.jsonl")
    if not model.adaptive:
        raise ExportError(f"model {source.name!r} is dense, expected one with adaptive modules; adapt it first")
    if hard_budgets:
        _enable_hard_budgets(source)
    check_replaceable(output)
    if calibration is not None:
        for split in (calibration.calibration, calibration.test):
            split_feeds(_input_specs(model), split)
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            fit_family_scales(source, Path(scratch), calibration, describe=describe_bundle, progress=tell)
    stages, ops = trace_stages(model, debug=debug, progress=tell)
    inputs = parity_inputs(model, calibration)
    settings = parity_settings(model, inputs)
    parity = check_parity(model, stages, inputs, settings, tell).require(f"parity of {source.name!r}")
    tell("counting the work anew", 0.0)
    counted = {name: array[:COUNTED_SAMPLES] for name, array in inputs.items()}
    check_work(stages, counted, settings, model.dense_macs_of(counted))
    one = run_reference(model, {name: array[:1] for name, array in inputs.items()}, settings[0])
    samples = golden_samples(one, len(settings))
    kept = {name: array[:samples] for name, array in inputs.items()}
    golden = [run_reference(model, kept, setting) for setting in settings]
    with staged_folder(output) as folder:
        files = save_stages(stages, folder)
        dense = _write_dense(source, folder, tell)
        bundle = describe_bundle(source, stages, files, ops, dense, debug=debug)
        write_file(folder / GOLDEN_FILE, encode_golden(golden))
        write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
        run_written(folder, golden, tell)
        if calibration is not None:
            bundle = calibrate_loaded(
                folder,
                calibration,
                points=points,
                evaluations=evaluations,
                progress=tell,
                journal=journal,
                task=model.task,
                rule=model.exit_rule,
            )
            write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    journal.unlink(missing_ok=True)
    return ExportReport(output, parity, bundle.curve)


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


def describe_bundle(
    source: LoadedModel,
    stages: list[TracedStage],
    files: list[Stage],
    ops: dict[str, int],
    dense: Dense,
    *,
    debug: bool = False,
) -> Bundle:
    """What ``bundle.json`` says of a model before it is calibrated."""
    model = source.model
    outputs = [*stages[-1].outputs, TensorSpec(name="macs_fraction", dtype="float32", shape=["batch"])]
    if debug:
        if not isinstance(model.token_axis, int) or not model.gates_in(0):  # trace_stage refuses exits and selections
            raise ExportError(
                f"got --debug for {source.name!r}, expected gates over a fixed number of tokens; read the outputs "
                "learners_<gate>"
            )
        outputs.append(TensorSpec(name="learners", dtype="int32", shape=["batch", model.gates_in(0), model.token_axis]))
    knobs = [
        Knob(
            name=spec.name,
            dtype=spec.dtype,
            shape=list(spec.shape),
            minimum=spec.minimum,
            maximum=spec.maximum,
            default=spec.default,
        )
        for spec in model.knob_specs()
    ]
    if len(stages) > 1:
        # A confidence may have any range: what lets nobody leave is infinity, not some number.
        shape = [len(stages) - 1]
        knobs.append(Knob(THRESHOLDS_KNOB, "float32", shape, minimum=-math.inf, maximum=math.inf, default=math.inf))
    return Bundle(
        format_version=FORMAT_VERSION,
        name=source.name,
        producer=f"adaptrt {adaptrt.__version__}",
        inputs=_input_specs(model),
        outputs=outputs,
        stages=files,
        knobs=knobs,
        dense=dense,
        curve=[],
        quality_metric=None,
        data={},
        ops=ops,
        exit_criterion=model.exit_criterion if len(stages) > 1 else None,
        task=model.task.name,
        tokens=_token_sets(model, stages),
        axes={name: Axis(*limits) for name, limits in model.axis_limits().items()},
    )


def _token_sets(model: StagedNetwork, stages: list[TracedStage]) -> dict[str, TokenSet]:
    """The tokens that stages decide about or carry a mask of."""
    if sets := model.row_sets():
        return {name: TokenSet(size) for name, size in sets.items()}
    masked = any(carry.name == "valid" for stage in stages for carry in stage.carry)
    if not masked and not any(stage.decisions for stage in stages):
        return {}
    return {"tokens": TokenSet(model.token_axis, "valid" if masked else None)}


def _input_specs(model: StagedNetwork) -> list[TensorSpec]:
    specs = []
    for spec in model.input_specs():
        image = None
        if spec.dtype == "float32" and len(spec.shape) == 4 and spec.shape[1] in (1, 3):
            channels, height, width = (int(size) for size in spec.shape[1:])
            image = ImagePreprocessing(channels=channels, height=height, width=width)
        specs.append(TensorSpec(spec.name, spec.dtype, list(spec.shape), image, spec.minimum, spec.maximum))
    return specs


def _write_dense(source: LoadedModel, folder: Path, tell: Progress) -> Dense:
    """Describe the dense model and, where its weights are there, write its graph for comparison."""
    macs, dense = source.model.dense_macs(), source.dense
    if dense is None:
        return Dense(macs=macs, parameters=source.model.dense_parameters())
    tell("tracing the dense model", 0.0)
    graph = trace_dense(dense)
    # Texts of the full length, for which the dense work is counted, all of them real.
    full = {name: tensor.numpy() for name, tensor in dense.example_inputs(1).items()}
    full = {name: np.ones_like(array) if array.dtype == bool else array for name, array in full.items()}
    check_dense_macs(graph, full, macs)
    stage = save_graph(graph, folder / DENSE_FILE)
    return Dense(
        macs=macs,
        parameters=sum(parameter.numel() for parameter in dense.parameters()),
        file=stage.file,
        sha256=stage.sha256,
        external_data=stage.external_data,
    )
