"""Engines of a bundle: prepared, judged, built, and kept in the bundle's folder, all of it or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import onnx

from adaptrt import AdaptrtError
from adaptrt.export.calibration.evaluations import Progress, untold
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.saved_graph import save_graph, sha256_of
from adaptrt.export.staging import staged_folder, write_file
from adaptrt.export.targets.device import device_architecture
from adaptrt.export.targets.engine_builder import EngineApi, build_engine, find_engine_api
from adaptrt.export.targets.openvino_check import (
    OpenVinoSession,
    openvino_installed,
    openvino_version,
    require_agreement,
)
from adaptrt.export.targets.prepare import Prepared, prepare
from adaptrt.export.targets.profiles import DEFAULT_BATCH, InputRange, SizeRange, stage_profiles
from adaptrt.export.targets.quality import QualityReport, compare_quality, require_quality
from adaptrt.export.targets.source import read_stages
from adaptrt.export.targets.trtexec import trtexec_command, trtexec_script
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_files import (
    ENGINE_FILE,
    ENGINES,
    FORMAT_VERSION,
    PLUGINS,
    TARGETS,
    EngineFile,
    EngineSet,
    EngineStage,
    encode_engines,
    engine_folder,
    read_engines,
)
from adaptrt.runtime.bundle.schema import Bundle

MAX_QUALITY_DROP = 0.01
TRTEXEC_SCRIPT = "trtexec.sh"
RTX_ARCHITECTURES = (86, 89, 120)
"""What TensorRT-RTX builds for where there is no GPU to ask: desktop GPUs of 2020 to 2025."""
_METADATA = "adaptrt.build"


@dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        target: One of ``runtime.engine_files.TARGETS``.
        precision: ``fp32`` or ``fp16``.
        architectures: Compute capabilities, as 89; empty for this machine's GPU, or ``RTX_ARCHITECTURES``.
        plugins: ``none``, ``library`` or ``python``; the last two for TensorRT only.
        plugin_library: The shared object, for ``library``.
        engine_version: The TensorRT to prepare for where it is not installed; empty if not known.
        batch: Sizes of the batch that engines are built for.
        tokens: Numbers of tokens, where they are dynamic; None derives them.
        max_quality_drop: How much lower than the bundle's the share of golden predictions may be, 0..1.
        verify: Whether OpenVINO, where it is installed, has to agree.
        rebuild: Build though what is there would do.
    """

    target: str
    precision: str = "fp32"
    architectures: tuple[int, ...] = ()
    plugins: str = "none"
    plugin_library: Path | None = None
    engine_version: str = ""
    batch: SizeRange = DEFAULT_BATCH
    tokens: SizeRange | None = None
    max_quality_drop: float = MAX_QUALITY_DROP
    verify: bool = True
    rebuild: bool = False


@dataclass(frozen=True)
class BuildReport:
    """What was built.

    Attributes:
        folder: Where it is.
        engines: What ``engine.json`` there says.
        reused: Whether it was there already.
        commands: ``trtexec`` lines that build the engines, where they were not built; empty otherwise.
        notes: What the user should know.
        quality: Per setting; None where ``reused``.
        verified: Largest difference of OpenVINO's logits from ONNX Runtime's; None where it was not asked.
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
    register_plugins: Callable[[int], None] | None = None,
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
        ParityError: A prepared graph does not run, or OpenVINO computes something else.
        ModuleNotFoundError: TensorRT-RTX is not installed.
    """
    tell = progress or untold
    folder = engine_folder(bundle_folder, settings.target, settings.precision)
    _check(settings)
    bundle = read_bundle(bundle_folder)
    api = None if settings.target == "openvino" else find_engine_api(settings.target)
    if api is None and settings.target == "tensorrt-rtx":
        raise ModuleNotFoundError("no TensorRT-RTX", name="tensorrt_rtx_bindings")
    settings = _resolved(settings, api)
    tell("preparing the graphs", 0.0)
    stages = read_stages(bundle_folder, bundle)
    knobs = {knob.name for knob in bundle.knobs}
    prepared = prepare(stages, settings.target, settings.precision, settings.plugins, settings.engine_version, knobs)
    ranges = stage_profiles(bundle_folder, bundle, stages, settings.batch, settings.tokens)
    notes: list[str] = []
    try:
        with _engines_folder(bundle_folder, folder) as staged:
            files = _save(bundle, prepared, ranges, settings, staged)
            wanted = EngineSet(
                format_version=FORMAT_VERSION,
                target=settings.target,
                precision=settings.precision,
                engine_version=api.version if api else "",
                arch=" ".join(map(str, settings.architectures)),
                plugins=settings.plugins,
                stages=files,
            )
            there = None if settings.rebuild else _reusable(folder, wanted, notes)
            if there is not None:
                raise _ReusedError
            tell("comparing with the bundle on its golden inputs", 0.0)
            quality = compare_quality(bundle_folder, bundle, stages, [each.runnable for each in prepared])
            made = msgspec.structs.replace(
                wanted,
                quality=quality.quality,
                reference_quality=quality.reference_quality,
                flip_rate=quality.flip_rate,
                largest_difference=quality.largest_difference,
            )
            _require_quality(bundle, made, settings)
            verified = _verified(bundle_folder, bundle, prepared, settings, tell)
            if api is not None:
                if settings.plugins == "python" and register_plugins is not None:
                    register_plugins(settings.architectures[0])
                made = msgspec.structs.replace(made, stages=_built(api, made.stages, ranges, settings, staged, tell))
            elif settings.target == "tensorrt":
                commands = _commands(Path(), made, ranges, settings)
                write_file(staged / TRTEXEC_SCRIPT, trtexec_script(commands).encode())
            write_file(staged / ENGINE_FILE, encode_engines(made))
    except _ReusedError:
        assert there is not None
        _require_quality(bundle, there, settings)
        made, quality, verified = there, None, None
    commands = _commands(folder, made, ranges, settings) if settings.target == "tensorrt" and api is None else []
    if commands:
        notes.append("TensorRT is not installed: the graphs are prepared, build the engines on the device")
    return BuildReport(folder, made, quality is None, commands, notes, quality, verified)


def _check(settings: BuildSettings) -> None:
    """Refuse settings that do not go together."""
    if settings.plugins not in PLUGINS:
        raise ExportError(f"got plugins {settings.plugins!r}, expected one of {', '.join(PLUGINS)}; name one")
    if settings.plugins != "none" and settings.target != "tensorrt":
        raise ExportError(
            f"got plugins {settings.plugins!r} for {settings.target}, expected none: of {', '.join(TARGETS)} only "
            "tensorrt takes plugins; leave --plugins out"
        )
    if (settings.plugins == "library") != (settings.plugin_library is not None):
        raise ExportError(
            "got a plugin library and --plugins library not together, expected both or neither; "
            "give --plugins library --plugin-library libadaptrt_trt.so"
        )
    if settings.target == "openvino" and settings.architectures:
        raise ExportError("got an architecture for openvino, expected none: its graphs fit any CPU; leave --arch out")
    if not 0 <= settings.max_quality_drop <= 1:
        raise ExportError(f"got a quality drop of {settings.max_quality_drop}, expected a share from 0 to 1")


def _resolved(settings: BuildSettings, api: EngineApi | None) -> BuildSettings:
    """Settings with what this machine tells.

    Raises:
        ExportError: An architecture that the engine's builder does not know, or cannot build for here.
    """
    given = tuple(sorted(set(settings.architectures)))
    if api is None:
        return dataclasses.replace(settings, architectures=given)
    if settings.engine_version and settings.engine_version != api.version:
        raise ExportError(
            f"got version {settings.engine_version}, expected {api.version}, which is installed; "
            "leave --engine-version out"
        )
    here = device_architecture()
    if api.target == "tensorrt":
        if here is None or (given and given != (here,)):
            there = "no GPU" if here is None else f"a GPU of sm_{here}"
            raise ExportError(
                f"TensorRT builds for the GPU of its machine, and this one has {there}, expected "
                f"{'one' if not given else 'sm_' + ' sm_'.join(map(str, given))}; build on the device"
            )
        return dataclasses.replace(settings, architectures=(here,), engine_version=api.version)
    known = api.architectures
    chosen = given or ((here,) if here in known else RTX_ARCHITECTURES)
    unknown = [number for number in chosen if number not in known]
    if unknown:
        raise ExportError(
            f"got architecture {unknown[0]}, expected one that {api.target} {api.version} builds for: "
            f"{', '.join(map(str, known))}; name one of them"
        )
    return dataclasses.replace(settings, architectures=tuple(chosen))


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
        if settings.target != "openvino":
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
    if len(there.stages) != len(wanted.stages):
        notes.append(f"built again: the bundle had {len(there.stages)} stages, has {len(wanted.stages)}")
        return None
    if wanted.engine_version and any(stage.engine is None for stage in there.stages):
        notes.append("built again: the graphs were prepared, but no engine was built")
        return None
    return there


def _require_quality(bundle: Bundle, made: EngineSet, settings: BuildSettings) -> None:
    if made.quality is None or made.reference_quality is None:
        raise ExportError(f"{ENGINE_FILE} says no quality, expected one; run it again with --rebuild")
    what = f"{bundle.name!r} in {settings.precision}"
    require_quality(what, made.quality, made.reference_quality, made.flip_rate, settings.max_quality_drop)


def _verified(
    folder: Path, bundle: Bundle, prepared: list[Prepared], settings: BuildSettings, tell: Progress
) -> float | None:
    """Largest difference of OpenVINO's logits from ONNX Runtime's on the prepared graphs; None if not asked."""
    if settings.target != "openvino" or not settings.verify or not openvino_installed():
        return None
    tell(f"comparing OpenVINO {openvino_version()} with ONNX Runtime", 0.0)
    graphs = [each.model for each in prepared]
    report = compare_quality(folder, bundle, graphs, graphs, OpenVinoSession)
    if settings.precision == "fp32":
        require_agreement(report, f"{bundle.name!r}")
    else:
        require_quality(
            f"{bundle.name!r} in OpenVINO",
            report.quality,
            report.reference_quality,
            report.flip_rate,
            settings.max_quality_drop,
        )
    return max(row.clear_difference for row in report.rows)


def _built(
    api: EngineApi,
    stages: list[EngineStage],
    ranges: list[dict[str, InputRange]],
    settings: BuildSettings,
    staged: Path,
    tell: Progress,
) -> list[EngineStage]:
    built = []
    for number, (stage, shapes) in enumerate(zip(stages, ranges, strict=True)):
        tell(f"building stage {number + 1} of {len(stages)}", 0.0)
        engine = staged / f"stage{number}.engine"
        build_engine(
            api,
            staged / stage.prepared.file,
            engine,
            shapes,
            architectures=settings.architectures if api.target == "tensorrt-rtx" else (),
            plugin_library=settings.plugin_library,
            progress=tell,
        )
        built.append(msgspec.structs.replace(stage, engine=EngineFile(engine.name, sha256_of(engine))))
    return built


def _commands(folder: Path, made: EngineSet, ranges: list[dict[str, InputRange]], settings: BuildSettings) -> list[str]:
    library = settings.plugin_library.resolve() if settings.plugin_library else None
    return [
        trtexec_command(folder / stage.prepared.file, folder / f"stage{number}.engine", shapes, library)
        for number, (stage, shapes) in enumerate(zip(made.stages, ranges, strict=True))
    ]
