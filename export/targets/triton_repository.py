"""Models for Triton: the bundle with adaptrt's runtime in the Python backend, and its graph in the ONNX Runtime one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper

from adaptrt.export.errors import ExportError
from adaptrt.export.staging import write_file
from adaptrt.export.targets.repository import (
    CONFIG_FILE,
    VERSION_FOLDER,
    RepositoryBuilder,
    RepositorySettings,
    copy_bundle,
)
from adaptrt.export.targets.triton_config import TritonConfig, triton_tensor
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.engine_files import ENGINES
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, Bundle, Knob, TensorSpec
from adaptrt.runtime.loading import load
from adaptrt.runtime.serving.served_model import answer_specs
from adaptrt.runtime.serving.triton_model import BUDGET, BUNDLE_FOLDER, PRECISION, THREADS

_PYTHON = '''"""Answers Triton's requests with adaptrt, which Triton's Python must have: pip install 'adaptrt[cpu]'."""

from adaptrt.runtime.serving.triton_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


class PythonModel(RepositoryBuilder):
    """A model of Triton's Python backend, with the bundle beside it."""

    def write(self, root: Path, bundle: Bundle, settings: RepositorySettings, model: str, staged: Path) -> list[str]:
        """As ``RepositoryBuilder``."""
        version = staged / VERSION_FOLDER
        version.mkdir()
        write_file(version / "model.py", _PYTHON.encode())
        record = BACKENDS[DEFAULT_BACKEND]
        target = record.built_for(settings.precision)
        prepared = f"{ENGINES}/{target}-{settings.precision}" if target else ""
        copy_bundle(root, bundle, settings.precision, prepared, version / BUNDLE_FOLDER)
        load(version / BUNDLE_FOLDER, precision=settings.precision)  # all that was copied is what it should be
        batch_axis = _batch_axis(bundle)
        limit = bundle.axes[batch_axis].longest if batch_axis in bundle.axes else None
        most = min(settings.max_batch, settings.max_batch if limit is None else limit)
        config = TritonConfig(
            model,
            "python",
            0 if batch_axis is None else most,
            [triton_tensor(spec, batch_axis) for spec in bundle.inputs],
            [triton_tensor(spec, batch_axis) for spec in answer_specs(bundle)],
            {BUDGET: "full", PRECISION: settings.precision, THREADS: ""},
            ("budget: of requests that name none; threads: of each operator, empty for one per core granted.",),
        )
        write_file(staged / CONFIG_FILE, config.text().encode())
        notes = []
        if batch_axis is None:
            notes.append("Triton batches no requests: an input or output of this bundle has no batch axis in front")
        return notes


class OnnxModel(RepositoryBuilder):
    """A model of Triton's ONNX Runtime backend: knobs are inputs that may be left out, and then run everything."""

    def write(self, root: Path, bundle: Bundle, settings: RepositorySettings, model: str, staged: Path) -> list[str]:
        """As ``RepositoryBuilder``."""
        del settings
        if len(bundle.stages) != 1:
            raise ExportError(
                f"got {bundle.name!r} with {len(bundle.stages)} stages, expected one for {self.record.name}: between "
                "stages a runtime decides who leaves; build it for the Python backend instead"
            )
        (stage,) = bundle.stages
        graph = onnx.load(str(root / stage.file), load_external_data=False)
        fed = {value.name for value in graph.graph.input}
        knobs = [knob for knob in bundle.knobs if knob.name in fed]
        give_defaults(graph, knobs)
        version = staged / VERSION_FOLDER
        version.mkdir()
        write_file(version / "model.onnx", graph.SerializeToString(deterministic=True))
        for data in stage.external_data:
            place = version / Path(data.file).relative_to(Path(stage.file).parent)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / data.file, place)
        specs = [TensorSpec(knob.name, knob.dtype, list(knob.shape)) for knob in knobs]
        config = TritonConfig(
            model,
            "onnxruntime",
            0,  # optional inputs and batches of Triton's exclude each other
            [
                *(triton_tensor(spec, None) for spec in bundle.inputs if spec.name in fed),
                *(triton_tensor(spec, None, optional=True) for spec in specs),
            ],
            [triton_tensor(spec, None) for spec in bundle.outputs],
            {},
            [_range(knob) for knob in knobs],
        )
        write_file(staged / CONFIG_FILE, config.text().encode())
        return ["a request may give knobs, not budgets: `adaptrt inspect` lists the knobs of the calibrated points"]


def give_defaults(model: onnx.ModelProto, knobs: list[Knob]) -> None:
    """Give inputs of a graph values that count where they are not fed, in place."""
    for knob in knobs:
        value = np.full(knob.shape, knob.default, np.dtype(knob.dtype))
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, knob.name))


def _batch_axis(bundle: Bundle) -> str | None:
    """The axis that all inputs and outputs have in front and nowhere else; None where there is no such axis."""
    specs = [*bundle.inputs, *answer_specs(bundle)]
    axis = next(spec.shape[0] for spec in bundle.outputs if spec.name == MACS_OUTPUT)
    batched = all(spec.shape and spec.shape[0] == axis and axis not in spec.shape[1:] for spec in specs)
    return axis if batched and isinstance(axis, str) else None


def _range(knob: Knob) -> str:
    return f"{knob.name}: {knob.minimum:g} to {knob.maximum:g}; left out it is {knob.default:g}, where everything runs."
