"""Further networks as rivals: dense ones as static graphs, those told how many tokens to keep at several numbers.

A folder holds a trained network, as ``adaptrt train`` writes it, or an exported bundle. What stands there is not
changed: exports and int8 go to a scratch folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adaptrt import AdaptrtError
from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.series import NETWORKS, BundleOf, Series, Setting
from adaptrt.bench.rivals.static_models import FLOAT32_FORM, INT8_FORM, StaticModels
from adaptrt.bench.timing.bundle_latency import open_bundle
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.export.calibration.evaluations import untold
from adaptrt.export.description import input_specs
from adaptrt.export.exporter import export_bundle
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models.families.token_pruning import PruningConfig, counts_at_share
from adaptrt.models.folder import LoadedModel, load_folder
from adaptrt.models.staged_network import StagedNetwork
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, read_bundle
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import MACS_OUTPUT, TensorSpec

KEEP_KNOB = "keep"
_FEWEST = 0.1
"""Share of the tokens that the last selection leaves at the cheapest setting."""
_PLAIN_NAMES = ("model", "bundle")
"""Folders that say nothing of what is in them; the one around them does."""


def rival_name(folder: Path) -> str:
    """What a folder's network is called."""
    path = folder.resolve()
    return path.parent.name if path.name in _PLAIN_NAMES else path.name


def named_rivals(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by what their networks are called.

    Raises:
        BenchError: Two are called the same, or one as what is always there.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        name = rival_name(folder)
        if name in named or name in NETWORKS:
            raise BenchError(f"got a second network called {name!r}, expected another name; rename {folder}")
        named[name] = folder
    return named


@dataclass(frozen=True)
class Rival:
    """A further network that has the inputs and outputs of the bundle it is compared with.

    Attributes:
        name: What it is called.
        folder: Where it is.
        trained: Its weights; None: it is an exported bundle.
    """

    name: str
    folder: Path
    trained: LoadedModel | None


def read_rival(name: str, folder: Path, bundle: Bundle) -> Rival:
    """Read a further network, as far as it takes to say whether it can be compared.

    Args:
        name: What it is called.
        folder: Of a trained network or an exported bundle.
        bundle: That it is compared with.

    Raises:
        BenchError: It is neither, adaptive by a price, or has other inputs, other outputs or another task.
        AdaptrtError: It is damaged.
    """
    if (folder / BUNDLE_FILE).is_file():
        own = read_bundle(folder)
        knobs = {knob.name for knob in own.knobs}
        if knobs != {KEEP_KNOB}:
            raise _adaptive(name, ", ".join(sorted(knobs)) or "none")
        _require_alike(name, bundle, own.inputs, own.outputs, own.task)
        return Rival(name, folder, None)
    if not folder.is_dir():
        raise BenchError(f"got rival {str(folder)!r}, expected the folder of a trained network or an exported bundle")
    trained = load_folder(folder, name, dense_too=True)
    knobs = {spec.name for spec in trained.model.knob_specs()}
    if knobs not in (set(), {KEEP_KNOB}) or len(trained.model.stage_names) > 1:
        raise _adaptive(name, ", ".join(sorted(knobs)) or "exits")
    _require_alike(name, bundle, input_specs(trained.model), _outputs(trained.model), trained.model.task.name)
    return Rival(name, folder, trained)


@torch.no_grad()
def _outputs(model: StagedNetwork) -> list[TensorSpec]:
    """What a network gives for one sample."""
    given = model.run_stages(model.example_inputs(1), {})[-1].outputs
    return [TensorSpec(name, str(value.numpy().dtype), ["batch", *value.shape[1:]]) for name, value in given.items()]


def _adaptive(name: str, knobs: str) -> BenchError:
    return BenchError(
        f"got rival {name!r} with the knobs {knobs}, expected a dense network or one with {KEEP_KNOB!r} alone; compare "
        "an adaptive one by a run of its own"
    )


def _require_alike(
    name: str, bundle: Bundle, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], task: str | None
) -> None:
    """Check that a rival can answer in the bundle's place."""
    if task != bundle.task:
        raise BenchError(f"got rival {name!r} for the task {task!r}, expected {bundle.task!r}; give one for that")
    for what, got, wanted in (
        ("inputs", list(inputs), bundle.inputs),
        ("outputs", _without_work(outputs), _without_work(bundle.outputs)),
    ):
        if {spec.name for spec in got} != {spec.name for spec in wanted} or not all(
            _fits(one, other) for one in got for other in wanted if one.name == other.name
        ):
            raise BenchError(
                f"got rival {name!r} with the {what} {_told(got)}, expected {_told(wanted)} as {bundle.name!r} has; "
                "give a network for the same data"
            )


def _without_work(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [spec for spec in specs if spec.name != MACS_OUTPUT]


def _fits(spec: TensorSpec, wanted: TensorSpec) -> bool:
    """Whether types and fixed sizes are the same; an axis without a size of its own takes any."""
    sizes = zip(spec.shape, wanted.shape, strict=False)
    fixed = all(got == size for got, size in sizes if isinstance(got, int) and isinstance(size, int))
    return fixed and spec.dtype == wanted.dtype and len(spec.shape) == len(wanted.shape)


def _told(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs)


def add_rivals(models: StaticModels, bundle: Bundle, rivals: Sequence[Rival], points: int) -> None:
    """Make further networks in float32 and int8, and start their processes.

    Args:
        models: Gets them.
        bundle: That they are compared with.
        rivals: What to make.
        points: Settings of those that are told how many tokens to keep.

    Raises:
        BenchError: A dense one does not run.
        ExportError: One cannot be exported.
    """
    for rival in rivals:
        if rival.trained is not None and not rival.trained.model.adaptive:
            model = rival.trained.model
            file = models.scratch / f"{rival.name}.onnx"
            save_graph(trace_dense(model), file)
            models.add_dense(rival.name, file, model.dense_macs() / bundle.dense.macs)
        else:
            _add_kept(models, bundle, rival, points)


def _add_kept(models: StaticModels, bundle: Bundle, rival: Rival, points: int) -> None:
    """A network that is told how many tokens to keep, in float32 and int8."""
    models.tell(f"exporting {rival.name}", 0.0)
    folder = rival.folder
    if rival.trained is not None:
        folder = models.scratch / rival.name
        export_bundle(rival.trained, folder, calibration=None)
    own = read_bundle(folder)
    settings, scale = keep_settings(own, points), own.dense.macs / bundle.dense.macs
    choices = {FLOAT32_FORM: EngineChoice(), INT8_FORM: EngineChoice(precision="int8")}
    for form, choice in choices.items():
        name = f"{rival.name} {form}"
        models.tell(f"making {name}", 0.0)
        try:
            if choice.precision is not None:
                folder = _in_int8(folder, models.scratch / f"{rival.name}_int8")
            process = models.stack.enter_context(open_bundle(folder, own, threads=models.threads, choice=choice))
        except AdaptrtError as error:
            models.left_out.append(f"{name}: {error}")
            continue
        runs = BundleOf(folder, own, choice.precision, scale)
        models.series.append(Series(name, rival.name, form, process, settings, runs))


def _in_int8(folder: Path, copy: Path) -> Path:
    """The bundle with its int8 graphs: itself, if it has them, else a copy."""
    target = BACKENDS[DEFAULT_BACKEND].prepared
    if engine_folder(folder, target, "int8").is_dir():
        return folder
    shutil.copytree(folder, copy)
    # What int8 costs in quality is measured with all else.
    build_target(copy, BuildSettings(target, "int8", max_quality_drop=1.0), progress=untold)
    return copy


def keep_settings(bundle: Bundle, count: int) -> list[Setting]:
    """Settings of a bundle that is told how many tokens to keep, from few to all, the same share at each selection.

    Args:
        bundle: With the knob ``keep`` alone.
        count: How many settings.
    """
    (knob,) = bundle.knobs
    selections, tokens = int(np.prod(knob.shape)), int(knob.maximum)
    # A graph that merges keeps at least half by itself; a first token that always stays is one of these.
    config = PruningConfig(tuple(range(selections)), "fixed")
    shares = np.linspace(_FEWEST ** (1 / selections), 1.0, count)
    kept = [[float(number) for number in counts_at_share(config, float(s), tokens, True)] for s in shares[:-1]]
    return [*(Setting({KEEP_KNOB: numbers}) for numbers in kept), Setting({})]


def read_rivals(folders: Mapping[str, Path], bundle: Bundle) -> list[Rival]:
    """All further networks; see ``read_rival``."""
    return [read_rival(name, folder, bundle) for name, folder in folders.items()]
