"""Which runs are compared with torch, and the comparison of them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from adaptrt.export.calibration.combinations import CALIBRATED
from adaptrt.export.calibration.evaluations import Progress, untold
from adaptrt.export.calibration.frontier import spread_prices
from adaptrt.export.calibration.stage_records import split_feeds
from adaptrt.export.errors import ParityError
from adaptrt.export.graph.trace import TracedStage
from adaptrt.export.parity.comparison import (
    MACS_TOLERANCE,
    OUTPUT_TOLERANCE,
    TIE,
    ParityReport,
    ParityRow,
    compare,
    largest_difference,
    merge_rows,
    tie_allowed,
)
from adaptrt.export.parity.reference import Array, Reference, run_reference
from adaptrt.export.parity.stage_graphs import StageGraphs
from adaptrt.models.data.split import DataSplits
from adaptrt.models.staged_network import KnobSpec, StagedNetwork
from adaptrt.runtime import load
from adaptrt.runtime.bundle.schema import MACS_OUTPUT

PARITY_PRICES = 7
PARITY_BATCHES = (1, 2, 64)
GOLDEN_SAMPLES, GOLDEN_BYTES = 64, 4_000_000  # at most, of the runs that `verify` compares with
_SPREAD_SAMPLES = 8

Setting = dict[str, Any]
"""Values of knobs; those left out stand at their defaults."""


def parity_inputs(model: StagedNetwork, data: DataSplits | None) -> dict[str, Array]:
    """Real inputs where there are some, noise otherwise; as many as the largest batch compared."""
    import torch

    count, specs = max(PARITY_BATCHES), model.input_specs()
    if data is not None:  # few samples are repeated: every batch size is to be compared
        feeds = split_feeds(specs, data.calibration)
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in feeds.items()}
    torch.manual_seed(0)
    return {name: tensor.numpy() for name, tensor in model.example_inputs(count).items()}


def parity_settings(model: StagedNetwork, inputs: Mapping[str, Array]) -> list[Setting]:
    """Knobs at which a model is compared: its price from everything to nothing, then every other knob.

    Every setting names the same knobs, the first those at their defaults.
    """
    specs = {spec.name: spec for spec in model.knob_specs()}
    defaults: Setting = {name: [spec.default] * spec.shape[0] for name, spec in specs.items()}
    settings = []
    if "price" in specs:
        low, high = specs["price"].minimum, specs["price"].maximum
        few = {name: array[:_SPREAD_SAMPLES] for name, array in inputs.items()}

        def work(price: float) -> float:
            return float(run_reference(model, few, {**defaults, "price": price}).macs_fraction.mean())

        prices = spread_prices(work, low, high, PARITY_PRICES)
        if len(prices) < PARITY_PRICES:  # gates that do not react to the price are compared at as many prices
            prices = [float(np.float32(price)) for price in np.linspace(low, high, PARITY_PRICES)]
        settings += [{**defaults, "price": price} for price in prices]
        if "token_price" in specs:
            middle = prices[len(prices) // 2]
            settings += [{**defaults, "token_price": middle}, {**defaults, "price": middle, "token_price": 0.0}]
    else:
        settings.append(dict(defaults))
    settings += _own_settings(specs, defaults)
    hard = {name: spec for name, spec in specs.items() if name in ("capacity", "keep")}
    for share in (0.0, 0.3, 0.7) if hard else ():
        values = {name: [int(share * spec.maximum)] * spec.shape[0] for name, spec in hard.items()}
        settings.append({**defaults, **values})
    return settings


def _own_settings(specs: Mapping[str, KnobSpec], defaults: Setting) -> list[Setting]:
    """Knobs of the network's own: all some way from everything to least, and each of them alone at its least."""
    knobs = {name: spec for name, spec in specs.items() if name not in CALIBRATED}
    ways = (0.25, 0.5, 0.75, 1.0) if knobs else ()
    together = [{name: [_towards_least(spec, way)] * spec.shape[0] for name, spec in knobs.items()} for way in ways]
    alone = [{name: [_towards_least(spec, 1.0)] * spec.shape[0]} for name, spec in knobs.items() if len(knobs) > 1]
    return [{**defaults, **values} for values in together + alone]


def _towards_least(spec: KnobSpec, way: float) -> float:
    least = spec.minimum if spec.default == spec.maximum else spec.maximum
    value = spec.default + way * (least - spec.default)
    return float(round(value)) if spec.dtype.startswith("int") else float(np.float32(value))


def golden_samples(one: Reference, runs: int) -> int:
    """How many samples the golden runs hold: 64, or as many as stay within about 4 MB before packing."""
    decided = one.k.nbytes + one.margin.nbytes + one.kept.nbytes + one.selection_margin.nbytes
    per_run = decided + sum(array.nbytes for stage in one.stages for array in stage.outputs.values())
    per_sample = sum(array.nbytes for array in one.inputs.values()) + runs * per_run
    return max(1, min(GOLDEN_SAMPLES, GOLDEN_BYTES // per_sample))


def knob_defaults(model: StagedNetwork) -> dict[str, Array]:
    """The arrays that stand for knobs left out."""
    return {spec.name: np.full(spec.shape, spec.default, spec.dtype) for spec in model.knob_specs()}


def check_parity(
    model: StagedNetwork,
    stages: Sequence[TracedStage],
    inputs: Mapping[str, Array],
    settings: Sequence[Setting],
    progress: Progress = untold,
) -> ParityReport:
    """Compare torch with the graphs on ONNX Runtime at every setting and batch size.

    Where all knobs stand at their defaults, where everything has to run, a tie excuses nothing.
    """
    defaults = knob_defaults(model)
    graphs, rows, count = StageGraphs(stages, defaults), [], len(next(iter(inputs.values())))
    progress("checking parity with torch", 0.0)
    for index, setting in enumerate(settings):
        for batch in PARITY_BATCHES:
            starts = range(0, min(count, max(4, batch)) - batch + 1, batch)
            parts: list[ParityRow] = []
            for start in starts:
                part = {name: array[start : start + batch] for name, array in inputs.items()}
                reference = run_reference(model, part, setting)
                parts.append(compare(graphs, reference, tie=tie_allowed(reference, defaults)))
            if parts:
                rows.append(merge_rows(parts))
        progress("checking parity with torch", (index + 1) / len(settings))
    return ParityReport(rows)


def gives_everything(file: Path, everything: Reference) -> bool:
    """Whether the dense model's graph gives what the stages do where everything runs, so that it may stand for them.

    Args:
        file: The graph.
        everything: Torch's run of the stages at the knobs' defaults.
    """
    wanted = everything.stages[-1].outputs
    given = _run(file, everything, list(wanted))
    every = np.ones(len(everything.macs_fraction), bool)
    return all(largest_difference(given[name], value, every) <= OUTPUT_TOLERANCE for name, value in wanted.items())


def require_dense(file: Path, wanted: Reference) -> None:
    """Compare the dense model's graph with torch's dense model.

    Args:
        file: The graph, which has the output ``macs_fraction``.
        wanted: Torch's run.

    Raises:
        ParityError: They differ.
    """
    values = {**wanted.outputs, MACS_OUTPUT: wanted.macs_fraction}
    given = _run(file, wanted, list(values))
    for name, value in values.items():
        limit = MACS_TOLERANCE if name == MACS_OUTPUT else OUTPUT_TOLERANCE
        error = largest_difference(given[name], value, np.ones(len(value), bool))
        if not error <= limit:
            raise ParityError(
                f"the dense model's graph gives {name} that differ by {error:.2e} from torch's, expected at most "
                f"{limit:.0e}; report the model"
            )


def _run(file: Path, reference: Reference, outputs: list[str]) -> dict[str, Array]:
    """Outputs of a graph on a reference's inputs."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = {node.name: reference.inputs[node.name] for node in session.get_inputs()}
    return dict(zip(outputs, map(np.asarray, session.run(outputs, feeds)), strict=True))


def run_written(folder: Path, golden: Sequence[Reference], progress: Progress = untold) -> None:
    """Load a bundle as its users will and run the golden inputs, before anybody is told that it works.

    Args:
        folder: The bundle as it was written.
        golden: What torch computed. Samples with a decision near a tie are not compared.
        progress: Told what is being done.

    Raises:
        BundleError: It cannot be loaded.
        ParityError: Its answers are not torch's.
    """
    progress("running the bundle as written", 0.0)
    model, compared = load(folder), 0
    for reference in golden:
        knobs = {name: value.tolist() for name, value in reference.knobs.items()}
        stages = model.run_stages(reference.inputs, knobs=knobs)
        clear = reference.clear(TIE)
        for number, (given, wanted) in enumerate(zip(stages, reference.stages, strict=True)):
            values = {**wanted.outputs, "macs_fraction": wanted.macs_fraction}
            for name, value in values.items():
                limit = MACS_TOLERANCE if name == "macs_fraction" else OUTPUT_TOLERANCE
                error = largest_difference(given[name], value, clear)
                if not error <= limit:
                    raise ParityError(
                        f"the bundle as written gives {name} that differ by {error:.2e} in stage {number}, expected at "
                        f"most {limit:.0e}; export again or report the model"
                    )
        compared += int(clear.sum())
    if not compared:
        raise ParityError(
            "every golden sample has a decision near a tie, expected some without; export with other data, or report "
            "the model"
        )
