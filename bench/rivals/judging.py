"""The samples that every way to answer is judged on, and what each is worth on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.bench.timing.session_process import SessionProcess
from adaptrt.export.calibration.stage_records import batches_by_length, bundle_task, split_feeds
from adaptrt.models.data.padding import mask_name, only_axis
from adaptrt.models.data.split import DataSplits
from adaptrt.models.tasks import Task
from adaptrt.models.tasks.following import following
from adaptrt.runtime import load
from adaptrt.runtime.bundle.bundle_file import Bundle, KnobValue
from adaptrt.runtime.bundle.schema import MACS_OUTPUT

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judge:
    """Samples, and what judges answers to them.

    Attributes:
        bundle: Whose inputs and outputs these are.
        task: What judges.
        feeds: Samples by input.
        labels: What answers are judged by.
        data: Where the samples come from.
    """

    bundle: Bundle
    task: Task
    feeds: dict[str, Array]
    labels: Array
    data: str

    def of_graph(self, process: SessionProcess) -> Array:
        """Quality of every sample as a plain graph answers it, ``[samples]``."""
        quality = np.empty(len(self.labels), np.float64)
        for rows, inputs in batches_by_length(self.bundle, self.feeds):
            quality[rows] = self.task.judge(_answers(self.bundle, process, inputs), self.labels[rows]).quality
        return quality

    def of_bundle(
        self, folder: Path, settings: Sequence[Mapping[str, KnobValue]], precision: str | None
    ) -> list[tuple[Array, float]]:
        """Quality of every sample ``[samples]`` and the mean work at every setting of a bundle's knobs.

        Args:
            folder: A bundle with the same inputs and outputs.
            settings: Knobs to feed.
            precision: To run it in; None: as it was exported.
        """
        model = load(folder, precision=precision)
        found = []
        for knobs in settings:
            quality, work = np.empty(len(self.labels), np.float64), np.empty(len(self.labels), np.float64)
            for rows, inputs in batches_by_length(model.bundle, self.feeds):
                result = model.run(inputs, knobs=knobs)
                quality[rows] = self.task.judge(result.outputs, self.labels[rows]).quality
                work[rows] = result.macs_fraction
            found.append((quality, float(work.mean())))
        return found


def make_judge(
    bundle: Bundle, data: DataSplits | None, golden: Mapping[str, Array], dense: SessionProcess, samples: int
) -> Judge:
    """What judges: the test split, or the dense model's answers to the golden inputs.

    Args:
        bundle: That is judged.
        data: None: there is none.
        golden: Inputs that the bundle brings.
        dense: Its dense model in float32.
        samples: Of the test split at most, spread over it.
    """
    task = bundle_task(bundle)
    if data is None:
        feeds = dict(golden)
        followed = following(task)
        make_labels = task.answers
        assert make_labels is not None
        labels = make_labels(_answers(bundle, dense, feeds), _real(bundle, feeds))
        return Judge(bundle, followed, feeds, np.asarray(labels), "golden inputs")
    whole = split_feeds(bundle.inputs, data.test)
    count = len(data.test.labels)
    rows = np.arange(min(samples, count)) * count // min(samples, count)
    judged = following(task) if data.follows_dense else task
    kept = {name: array[rows] for name, array in whole.items()}
    return Judge(bundle, judged, kept, data.test.labels[rows], data.name)


def _real(bundle: Bundle, feeds: Mapping[str, Array]) -> Array | None:
    """Which tokens are no padding, bool ``[samples, tokens]``; None: all."""
    name = mask_name(bundle.inputs, only_axis(bundle.inputs))
    return None if name is None else np.asarray(feeds[name], bool)


def _answers(bundle: Bundle, process: SessionProcess, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What a static model gives for some samples, by output."""
    known = {name: array for name, array in feeds.items() if name in process.inputs}
    process.load({f"asked {name}": array for name, array in known.items()})
    feed = {name: f"asked {name}" for name in known}
    sizes = {
        axis: size
        for spec in bundle.inputs
        for axis, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }
    given = {}
    for spec in bundle.outputs:
        if spec.name != MACS_OUTPUT:
            shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
            given[spec.name] = process.output(spec.name, feed).reshape(shape).astype(spec.dtype)
    return given
