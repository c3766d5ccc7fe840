"""From a model to a bundle: trace, attach bodies, prove parity, calibrate, write."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

import adaptrt
from adaptrt.export.bodies import attach_bodies
from adaptrt.export.calibrate import POINTS, Progress, calibrated, require_shape, spread_prices, untold
from adaptrt.export.errors import ExportError
from adaptrt.export.parity import TIE, GraphUnderTest, ParityReport, ParityRow, merge_rows
from adaptrt.export.reference import GOLDEN_FILE, Floats, Reference, encode_golden, run_reference
from adaptrt.export.staging import check_replaceable, staged_folder, write_file
from adaptrt.export.trace import trace
from adaptrt.models.data import DataSplits
from adaptrt.models.folder import LoadedModel
from adaptrt.models.vit import ViT
from adaptrt.runtime.bundle import (
    BUNDLE_FILE,
    FORMAT_VERSION,
    Bundle,
    CurvePoint,
    DataFile,
    Dense,
    ImagePreprocessing,
    Knob,
    Stage,
    TensorSpec,
    encode_bundle,
)

MODEL_FILE, DENSE_FILE = "model.onnx", "dense.onnx"
EXTERNAL_DATA_FROM = 10**9  # bytes of weights from which they lie beside the graph
PARITY_PRICES = 7
PARITY_BATCHES = (1, 2, 64)
GOLDEN_SAMPLES, GOLDEN_BYTES = 64, 4_000_000  # at most, of the runs that `verify` compares with


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
    points: int = POINTS,
    progress: Progress | None = None,
) -> ExportReport:
    """Export a model as a bundle; a bundle that stood there is replaced only when all has succeeded.

    Args:
        source: The model.
        output: Folder of the bundle.
        calibration: Data to calibrate with; None leaves the curve empty.
        debug: Adds the output ``learners`` (int32 ``[B, L, T]``).
        points: Points of the curve.
        progress: Told what is being done.

    Raises:
        ExportError: The model is dense, or ``output`` cannot be written or is no bundle.
        ParityError: The graph differs from torch.
        CalibrationError: The data does not fit.
    """
    tell = progress or untold
    if not source.model.adaptive:
        raise ExportError(f"model {source.name!r} is dense, expected one with adaptive modules; adapt it first")
    check_replaceable(output)
    pixels = _pixels(source.model)
    if calibration is not None:
        for split in (calibration.calibration, calibration.test):
            require_shape(pixels, split)
    tell("tracing the adaptive model", 0.0)
    graph = trace(source.model, debug=debug)
    ops = attach_bodies(graph)
    inputs = _parity_inputs(source.model, calibration)
    tell("checking parity with torch", 0.0)
    prices = parity_prices(source.model, inputs)
    parity = check_parity(source.model, graph, inputs, prices, tell).require(f"parity of {source.name!r}")
    kept = inputs[: golden_samples(run_reference(source.model, inputs[:1], prices[0]), len(prices))]
    golden = [run_reference(source.model, kept, price) for price in prices]
    with staged_folder(output) as folder:
        stage = save_graph(graph, folder / MODEL_FILE)
        dense = _write_dense(source, folder, tell)
        bundle = _describe_bundle(source, pixels, stage, dense, ops, debug)
        write_file(folder / GOLDEN_FILE, encode_golden(golden))
        write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
        if calibration is not None:
            bundle = calibrated(folder, calibration, points=points, progress=tell)
            write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    return ExportReport(output, parity, bundle.curve)


def parity_prices(model: ViT, inputs: Floats, count: int = PARITY_PRICES) -> list[float]:
    """Prices from everything to nothing, with the torch model's work spread evenly between."""
    low, high = model.price_limits()
    sample = inputs[:8]
    prices = spread_prices(lambda p: float(run_reference(model, sample, p).macs_fraction.mean()), low, high, count)
    if len(prices) < count:  # gates that do not react to the price are compared at as many prices
        prices = [float(np.float32(price)) for price in np.linspace(low, high, count)]
    return prices


def golden_samples(one: Reference, runs: int) -> int:
    """How many samples the golden runs hold: 64, or as many as stay within about 4 MB before packing."""
    per_sample = one.inputs.nbytes + runs * (one.logits.nbytes + one.k.nbytes + one.margin.nbytes)
    return max(1, min(GOLDEN_SAMPLES, GOLDEN_BYTES // per_sample))


def check_parity(
    model: ViT,
    graph: onnx.ModelProto,
    inputs: Floats,
    prices: Iterable[float],
    progress: Progress | None = None,
) -> ParityReport:
    """Compare torch with the graph on ONNX Runtime at every price and batch size.

    At the lowest price, where everything has to run, a tie excuses nothing.
    """
    under_test, rows, prices = GraphUnderTest(graph), [], list(prices)
    everything, _ = model.price_limits()
    for index, price in enumerate(prices):
        for batch in PARITY_BATCHES:
            starts = range(0, min(len(inputs), max(4, batch)) - batch + 1, batch)
            parts: list[ParityRow] = [
                under_test.compare(
                    run_reference(model, inputs[start : start + batch], price),
                    tie=0.0 if price == everything else TIE,
                )
                for start in starts
            ]
            if parts:
                rows.append(merge_rows(parts))
        if progress is not None:
            progress("checking parity with torch", (index + 1) / len(prices))
    return ParityReport(rows)


def save_graph(graph: onnx.ModelProto, path: Path) -> Stage:
    """Write a graph, weights beside it when they are large, and give its entry in the bundle."""
    external: list[DataFile] = []
    if graph.ByteSize() >= EXTERNAL_DATA_FROM:
        data = path.with_name(path.name + ".data")
        onnx.save(graph, str(path), save_as_external_data=True, location=data.name, size_threshold=1024)
        external.append(DataFile(file=data.name, sha256=_sha256(data)))
    else:
        write_file(path, graph.SerializeToString(deterministic=True))
    return Stage(file=path.name, sha256=_sha256(path), external_data=external)


def _parity_inputs(model: ViT, data: DataSplits | None) -> Floats:
    """Real inputs where there are some, noise otherwise."""
    c, count = model.config, max(PARITY_BATCHES)
    if data is not None:  # few samples are repeated: every batch size is to be compared
        return np.resize(data.calibration.inputs, (count, *data.calibration.inputs.shape[1:]))
    generator = np.random.default_rng(0)
    return generator.random((count, c.channels, c.image_size, c.image_size), dtype=np.float32)


def _write_dense(source: LoadedModel, folder: Path, tell: Progress) -> Dense:
    """Describe the dense model and, where its weights are there, write its graph for comparison."""
    macs = source.model.dense_macs()
    if source.dense is None:
        with torch.device("meta"):  # the shape of the model that was adapted is known without its weights
            shape = ViT(dataclasses.replace(source.model.config, acm=None))
        return Dense(macs=macs, parameters=sum(parameter.numel() for parameter in shape.parameters()))
    tell("tracing the dense model", 0.0)
    stage = save_graph(trace(source.dense), folder / DENSE_FILE)
    parameters = sum(parameter.numel() for parameter in source.dense.parameters())
    return Dense(
        macs=macs,
        parameters=parameters,
        file=stage.file,
        sha256=stage.sha256,
        external_data=stage.external_data,
    )


def _pixels(model: ViT) -> TensorSpec:
    c = model.config
    return TensorSpec(
        name="pixels",
        dtype="float32",
        shape=["batch", c.channels, c.image_size, c.image_size],
        preprocessing=ImagePreprocessing(channels=c.channels, height=c.image_size, width=c.image_size),
    )


def _describe_bundle(
    source: LoadedModel, pixels: TensorSpec, stage: Stage, dense: Dense, ops: dict[str, int], debug: bool
) -> Bundle:
    c = source.model.config
    low, high = source.model.price_limits()
    outputs = [
        TensorSpec(name="logits", dtype="float32", shape=["batch", c.classes]),
        TensorSpec(name="macs_fraction", dtype="float32", shape=["batch"]),
    ]
    if debug:
        gates = len(source.model.gates())
        outputs.append(TensorSpec(name="learners", dtype="int32", shape=["batch", gates, c.tokens]))
    return Bundle(
        format_version=FORMAT_VERSION,
        name=source.name,
        producer=f"adaptrt {adaptrt.__version__}",
        inputs=[pixels],
        outputs=outputs,
        stages=[stage],
        knobs=[Knob(name="price", dtype="float32", shape=[1], minimum=low, maximum=high, default=low)],
        dense=dense,
        curve=[],
        quality_metric=None,
        data={},
        ops=ops,
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
