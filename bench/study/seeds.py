"""One seed of the study: train, export, build int8, calibrate both, compare; what is there is not made again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptrt import write_atomically
from adaptrt.bench.families.networks import FamilyNetwork, export_network, require_recipe, train_network
from adaptrt.bench.reports.result_json import write_json
from adaptrt.bench.rivals.comparison import compare_rivals
from adaptrt.bench.rivals.result import RivalComparison, read_comparison
from adaptrt.bench.study.networks import NETWORKS, StudyNetwork, seed_folder
from adaptrt.export.calibration.engine_curve import calibrate_engine
from adaptrt.export.calibration.worker_process import EngineOptions
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models.data.split import DataSplits, Split
from adaptrt.models.training.phase import Progress
from adaptrt.models.training.precision import choose_precision
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.engine_calibration import CALIBRATION_FILE
from adaptrt.runtime.bundle.engine_files import engine_folder

COMPARISON_FILE, _RECORD_FILE = "rivals.json", "compared.json"
BATCH = 1
_PRECISION = "int8"
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class StudySettings:
    """How a seed is exported and compared.

    Attributes:
        precision: To train in, as ``choose_precision`` takes it.
        evaluations: Passes of the calibration at most, where that is still to be done.
        calibration: Samples to calibrate with, likewise.
        points: Of every curve that is measured.
        samples: Of the test split that quality is measured on.
        threads: Threads that one operator may use when it is measured.
    """

    precision: str = "auto"
    evaluations: int = 20
    calibration: int = 2000
    points: int = 7
    samples: int = 2000
    threads: int = 1

    @property
    def passes_samples(self) -> int:
        """Samples that the passes of one seed run, about.

        To look for points, to report of them, and both once more in int8, which takes half as long.
        """
        return 3 * self.calibration * self.evaluations


def comparison_file(root: Path, seed: int) -> Path:
    """What was measured of a seed."""
    return seed_folder(root, seed) / COMPARISON_FILE


def is_compared(root: Path, seed: int, networks: Sequence[FamilyNetwork], settings: StudySettings) -> bool:
    """Whether a seed was compared so, after all of its networks were trained."""
    file, record = comparison_file(root, seed), seed_folder(root, seed) / _RECORD_FILE
    if not (file.is_file() and record.is_file() and all(network.trained for network in networks)):
        return False
    weights = [path.stat().st_mtime for network in networks for path in network.model.glob("*.safetensors")]
    return record.read_bytes() == _record(networks, settings) and file.stat().st_mtime >= max(weights, default=0.0)


def _record(networks: Sequence[FamilyNetwork], settings: StudySettings) -> bytes:
    """What a comparison is of."""
    names = [network.name for network in networks]
    measured = {"points": settings.points, "samples": settings.samples, "threads": settings.threads}
    return json.dumps({"networks": names, **measured}).encode()


def run_seed(
    root: Path,
    seed: int,
    networks: Sequence[FamilyNetwork],
    data: DataSplits,
    settings: StudySettings,
    tell: Tell,
) -> RivalComparison:
    """Do what is left of one seed.

    Args:
        root: Folder of the study.
        seed: Its number.
        networks: As ``seed_networks`` gives them, the adaptive one first.
        data: With a training part.
        settings: How it is exported and compared.
        tell: Told what is being done.

    Raises:
        AdaptrtError: A training, an export or a measurement failed.
    """
    for network in networks:
        require_recipe(network)
    if is_compared(root, seed, networks, settings):
        return read_comparison(comparison_file(root, seed))
    precision = choose_precision(settings.precision, *(network.checkpoints for network in networks)).precision
    for network in networks:
        if not network.trained:

            def report(step: Progress, name: str = network.name) -> None:
                tell(f"seed {seed}, {name}: training, {step.phase}", step.step / step.steps)

            train_network(network, data, seed_folder(root, seed), precision=precision, report=report)

    def said(what: str, share: float) -> None:
        tell(f"seed {seed}: {what}", share)

    adaptive, *others = networks
    short = shortened(data, settings.calibration)
    if not adaptive.exported:
        export_network(adaptive, short, evaluations=settings.evaluations, progress=said)
    calibrate_int8(adaptive.file, short, said)
    result = compare_rivals(
        adaptive.file,
        data,
        batches=(BATCH,),
        threads=settings.threads,
        points=settings.points,
        samples=settings.samples,
        rivals={title_of(network.name): network.model for network in others},
        progress=said,
    )
    write_json(result, comparison_file(root, seed))
    write_atomically(seed_folder(root, seed) / _RECORD_FILE, _record(networks, settings))
    return result


def title_of(name: str, networks: Sequence[StudyNetwork] = NETWORKS) -> str:
    """What tables call a network."""
    return next(each.title for each in networks if each.name == name)


def calibrate_int8(folder: Path, data: DataSplits, tell: Tell) -> None:
    """Build a bundle in int8 and measure its curve there, if that is not done."""
    target = BACKENDS[DEFAULT_BACKEND].prepared
    # What int8 costs in quality is measured with all else.
    build_target(folder, BuildSettings(target, _PRECISION, max_quality_drop=1.0), progress=tell)
    if not (engine_folder(folder, target, _PRECISION) / CALIBRATION_FILE).is_file():
        calibrate_engine(folder, data, EngineOptions(DEFAULT_BACKEND, _PRECISION), progress=tell)


def shortened(data: DataSplits, samples: int) -> DataSplits:
    """The same data with at most so many samples to calibrate with and to report of, spread over all."""
    return DataSplits(data.name, _spread(data.calibration, samples), _spread(data.test, samples), data.train)


def _spread(split: Split, samples: int) -> Split:
    count = min(samples, len(split))
    return split.part(np.arange(count) * len(split) // count)
