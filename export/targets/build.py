"""Engines of a bundle: prepared, judged, built, and kept in the bundle's folder, all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from adaptrt import AdaptrtError
from adaptrt.export.calibration.evaluations import Progress, untold
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.staging import staged_folder, write_file
from adaptrt.export.targets.int8_dense import Int8Dense, prepare_dense
from adaptrt.export.targets.int8_scales import (
    ACTIVATIONS,
    TOKEN,
    QuantizedStages,
    prepare_for_plugins,
    prepare_int8,
    prepare_pairs,
)
from adaptrt.export.targets.prepare import Prepared, prepare
from adaptrt.export.targets.profiles import InputRange, stage_profiles
from adaptrt.export.targets.quality import QualityReport, compare_quality, require_quality
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.target_builder import BuildSettings, RegisterPlugins, TargetBuilder
from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND
from adaptrt.runtime.backends.int8_products import NARROW_BITS, WIDE_BITS
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_calibration import CALIBRATION_FILE
from adaptrt.runtime.bundle.engine_files import (
    ENGINE_FILE,
    ENGINES,
    FORMAT_VERSION,
    EngineFile,
    EngineSet,
    EngineStage,
    encode_engines,
    engine_folder,
    read_engines,
)
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import PRECISIONS, TARGETS, TargetRecord, all_plugins
from adaptrt.runtime.table import either, imported

DENSE_FILE = "dense.onnx"
PLUGIN_PRECISIONS = ("fp32", "fp16", "int8")
"""What adaptrt's kernels compute in."""
_METADATA = "adaptrt.build"
_VERSION = re.compile(r"\d+(\.\d+){1,3}", re.ASCII)
"""Of TensorRT, as its package tells it."""


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        folder: Where it is.
        engines: What ``engine.json`` there says.
        reused: Whether it was there already.
        commands: That build the engines elsewhere, where they were not built; empty otherwise.
        notes: What the user should know.
        quality: Per setting; None where ``reused``.
        verified: Largest difference of the engine's logits from ONNX Runtime's; None where it was not asked.
    """

    folder: Path
    engines: EngineSet
    reused: bool
    commands: list[str]
    notes: list[str]
    quality: QualityReport | None = None
    verified: float | None = None


class _ReusedError(Exception):
    """What is being prepared is there already; takes the way out of the staged folder."""


def build_target(
    bundle_folder: Path,
    settings: BuildSettings,
    *,
    progress: Progress | None = None,
    register_plugins: RegisterPlugins | None = None,
) -> BuildReport:
    """Prepare a bundle for a target, and build its engines where the target's library is there.

    Args:
        bundle_folder: The bundle.
        settings: What to build.
        progress: Told what is being done.
        register_plugins: Registers Python plugins for an architecture; called before parsing for ``python`` plugins.

    Raises:
        BundleError: The bundle is damaged.
        ExportError: Settings that do not go together, a graph that the engine refuses, or a quality below the bound.
        ParityError: A prepared graph does not run, or the engine computes something else.
        ModuleNotFoundError: The target's library is required and not installed.
    """
    tell = progress or untold
    folder = engine_folder(bundle_folder, settings.target, settings.precision)
    record = TARGETS[settings.target]
    _check(settings, record)
    bundle = read_bundle(bundle_folder)
    builder: TargetBuilder = imported(record.builder)(record)
    settings = builder.resolved(settings)
    tell("preparing the graphs", 0.0)
    stages = read_stages(bundle_folder, bundle)
    knobs = {knob.name for knob in bundle.knobs}
    quantized: QuantizedStages | None = None
    dense = Int8Dense()
    notes: list[str] = []
    if PRECISIONS[settings.precision].quantized:
        drop, bits = settings.max_quality_drop, settings.weight_bits
        if settings.plugins != "none":
            plugins = settings.plugins, settings.engine_version
            quantized = prepare_for_plugins(bundle_folder, bundle, stages, *plugins, tell)
        elif record.pairs:
            quantized = prepare_pairs(bundle_folder, bundle, stages, record, settings.precision, bits, tell)
        else:
            quantized = prepare_int8(bundle_folder, bundle, stages, bits, settings.activations, drop, tell)
            tell("preparing the dense model's graph", 0.8)
            dense = prepare_dense(bundle_folder, bundle, bits, settings.activations, drop)
        prepared, notes = quantized.prepared, [note for note in (quantized.note, dense.note) if note]
    else:
        given = (settings.target, settings.precision, settings.plugins, settings.engine_version)
        prepared = prepare(stages, *given, knobs)
    ranges = stage_profiles(bundle_folder, bundle, stages, settings.batch, settings.tokens)
    try:
        with _engines_folder(bundle_folder, folder) as staged:
            files = _save(bundle, prepared, ranges, settings, staged)
            wanted = EngineSet(
                format_version=FORMAT_VERSION,
                target=settings.target,
                precision=settings.precision,
                engine_version=builder.version,
                arch=" ".join(map(str, settings.architectures)),
                plugins=settings.plugins,
                stages=files,
                weight_bits=None if quantized is None else quantized.weight_bits,
                activations=None if quantized is None else quantized.activations,
                dense=None if dense.graph is None else _save_dense(bundle, dense.graph, staged),
                dense_activations=dense.activations,
                dense_quality=dense.quality,
            )
            there = None if settings.rebuild else _reusable(folder, wanted, notes)
            if there is not None:
                raise _ReusedError
            tell("comparing with the bundle on its golden inputs", 0.0)
            quality = None if quantized is None else quantized.quality
            if quality is None:
                quality = compare_quality(bundle_folder, bundle, stages, [each.runnable for each in prepared])
            engine_set = msgspec.structs.replace(
                wanted,
                quality=quality.quality,
                reference_quality=quality.reference_quality,
                flip_rate=quality.flip_rate,
                largest_difference=quality.largest_difference,
            )
            _require_quality(bundle, engine_set, settings)
            verified = builder.verified(bundle_folder, bundle, prepared, settings, tell)
            engines = builder.built(engine_set.stages, ranges, settings, staged, tell, register_plugins)
            engine_set = msgspec.structs.replace(engine_set, stages=engines)
            write_file(staged / ENGINE_FILE, encode_engines(engine_set))
    except _ReusedError:
        assert there is not None
        _require_quality(bundle, there, settings)
        engine_set, quality, verified = there, None, None
    commands = builder.commands(folder, engine_set.stages, ranges, settings)
    if commands:
        notes.append(builder.unbuilt)
    if bundle.curve and not record.gpu and settings.precision != "fp32" and not (folder / CALIBRATION_FILE).exists():
        notes.append(
            f"budgets go by the curve of float32: `adaptrt calibrate {bundle_folder} --precision {settings.precision}"
            f"{'' if record.backend == DEFAULT_BACKEND else f' --backend {record.backend}'}` measures it in "
            f"{settings.precision}"
        )
    return BuildReport(folder, engine_set, quality is None, commands, notes, quality, verified)


def _check(settings: BuildSettings, record: TargetRecord) -> None:
    """Refuse settings that do not go together."""
    if settings.precision not in record.precisions:
        raise ExportError(
            f"got precision {settings.precision!r} for {record.name}, expected {either(record.precisions)}; name one"
        )
    if settings.plugins not in all_plugins():
        raise ExportError(f"got plugins {settings.plugins!r}, expected one of {', '.join(all_plugins())}; name one")
    if settings.plugins not in record.plugins:
        with_plugins = either(target.name for target in TARGETS.values() if len(target.plugins) > 1)
        raise ExportError(
            f"got plugins {settings.plugins!r} for {record.name}, expected {either(record.plugins)}: of "
            f"{', '.join(TARGETS)} only {with_plugins} takes plugins; leave --plugins out"
        )
    if (settings.plugins == "library") != (settings.plugin_library is not None):
        raise ExportError(
            "got a plugin library and --plugins library not together, expected both or neither; "
            "give --plugins library --plugin-library libadaptrt_trt.so"
        )
    if settings.architectures and not record.gpu:
        raise ExportError(
            f"got an architecture for {record.name}, expected none: its graphs fit any CPU; leave --arch out"
        )
    if settings.weight_bits not in (NARROW_BITS, WIDE_BITS):
        raise ExportError(
            f"got weights of {settings.weight_bits} bits, expected {NARROW_BITS} or {WIDE_BITS}; name one"
        )
    if settings.activations not in ACTIVATIONS:
        raise ExportError(f"got activations {settings.activations!r}, expected {either(ACTIVATIONS)}; name one")
    if record.pairs and PRECISIONS[settings.precision].quantized and settings.activations == TOKEN:
        raise ExportError(
            f"got activations {settings.activations!r} for {record.name} in {settings.precision}, expected static: "
            "its engine takes fixed scales alone; leave --activations out"
        )
    if settings.plugins != "none" and settings.precision not in PLUGIN_PRECISIONS:
        raise ExportError(
            f"got plugins {settings.plugins!r} for {record.name} in {settings.precision}, expected "
            f"{either(PLUGIN_PRECISIONS)} with plugins: no kernel computes in {settings.precision}; leave --plugins out"
        )
    if settings.engine_version and not record.gpu:
        raise ExportError(f"got an engine version for {record.name}, expected none; leave --engine-version out")
    if settings.engine_version and not _VERSION.fullmatch(settings.engine_version):
        raise ExportError(
            f"got engine version {settings.engine_version!r}, expected numbers such as 10.3; give that of the device"
        )
    if not 0 <= settings.max_quality_drop <= 1:
        raise ExportError(f"got a quality drop of {settings.max_quality_drop}, expected a share from 0 to 1")


@contextlib.contextmanager
def _engines_folder(bundle_folder: Path, folder: Path) -> Iterator[Path]:
    """A folder that takes the place of ``folder`` when the block ends without error; nothing is left otherwise."""
    try:
        with staged_folder(folder, _check_engines_folder) as staged:
            yield staged
    finally:
        with contextlib.suppress(OSError):  # not empty: there are engines
            (bundle_folder / ENGINES).rmdir()


def _check_engines_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExportError(f"{folder} is no folder, expected one that a build wrote, or nothing; move it away")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ENGINE_FILE).is_file():
        raise ExportError(f"{folder} holds files and no {ENGINE_FILE}, expected what a build wrote; move them away")


def _save(
    bundle: Bundle,
    prepared: list[Prepared],
    ranges: list[dict[str, InputRange]],
    settings: BuildSettings,
    staged: Path,
) -> list[EngineStage]:
    """Write the prepared graphs. What else an engine depends on goes into them, so that one hash covers it."""
    stages = []
    for number, (stage, each, shapes) in enumerate(zip(bundle.stages, prepared, ranges, strict=True)):
        graph = onnx.ModelProto()
        graph.CopyFrom(each.model)
        if TARGETS[settings.target].sized:
            key = msgspec.json.encode({name: dataclasses.asdict(shape) for name, shape in shapes.items()})
            entry = graph.metadata_props.add()
            entry.key, entry.value = _METADATA, key.decode()
        saved = save_graph(graph, staged / f"stage{number}.onnx")
        stages.append(
            EngineStage(
                source_sha256=stage.sha256,
                prepared=EngineFile(saved.file, saved.sha256),
                external_data=[EngineFile(data.file, data.sha256) for data in saved.external_data],
            )
        )
    return stages


def _save_dense(bundle: Bundle, graph: onnx.ModelProto, staged: Path) -> EngineStage:
    saved = save_graph(graph, staged / DENSE_FILE)
    data = [EngineFile(each.file, each.sha256) for each in saved.external_data]
    return EngineStage(bundle.dense.sha256 or "", EngineFile(saved.file, saved.sha256), external_data=data)


def _reusable(folder: Path, wanted: EngineSet, notes: list[str]) -> EngineSet | None:
    """What is there, if it is what would be built; else a note says why it is built anew."""
    if not folder.exists():
        return None
    try:
        there = read_engines(folder)
    except AdaptrtError as error:
        notes.append(f"built again: {error}")
        return None
    for what, old, new in (
        ("engine version", there.engine_version, wanted.engine_version),
        ("architecture", there.arch, wanted.arch),
        ("plugins", there.plugins, wanted.plugins),
        ("scales of activations", there.activations or "", wanted.activations or ""),
        ("weight bits", str(there.weight_bits or ""), str(wanted.weight_bits or "")),
    ):
        if old != new:
            notes.append(f"built again: {what} was {old or 'none'}, is {new or 'none'}")
            return None
    for number, (old_stage, new_stage) in enumerate(zip(there.stages, wanted.stages, strict=False)):
        if old_stage.source_sha256 != new_stage.source_sha256:
            notes.append(f"built again: stage {number} of the bundle was exported anew")
            return None
        if old_stage.prepared != new_stage.prepared or old_stage.external_data != new_stage.external_data:
            notes.append(f"built again: stage {number} is prepared otherwise now (shapes or adaptrt changed)")
            return None
    if there.dense != wanted.dense:
        notes.append(f"built again: {_difference(there.dense, wanted.dense)}")
        return None
    if len(there.stages) != len(wanted.stages):
        notes.append(f"built again: the bundle had {len(there.stages)} stages, has {len(wanted.stages)}")
        return None
    if wanted.engine_version and any(stage.engine is None for stage in there.stages):
        notes.append("built again: the graphs were prepared, but no engine was built")
        return None
    return there


def _difference(there: EngineStage | None, wanted: EngineStage | None) -> str:
    """What has become of the dense model's graph."""
    if there is None or wanted is None:
        return (
            f"the dense model's graph was {'left out' if there is None else 'there'}, is {'there' if wanted else 'not'}"
        )
    return "the dense model's graph is prepared otherwise now (it was exported anew, or adaptrt changed)"


def _require_quality(bundle: Bundle, engines: EngineSet, settings: BuildSettings) -> None:
    if engines.quality is None or engines.reference_quality is None:
        raise ExportError(f"{ENGINE_FILE} says no quality, expected one; run it again with --rebuild")
    what = f"{bundle.name!r} in {settings.precision}"
    require_quality(what, engines.quality, engines.reference_quality, engines.flip_rate, settings.max_quality_drop)
