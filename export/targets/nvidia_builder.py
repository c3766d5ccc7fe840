"""TensorRT and TensorRT-RTX as targets: engines, built here where their library is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.errors import ExportError
from adaptrt.export.graph.saved_graph import sha256_of
from adaptrt.export.staging import write_file
from adaptrt.export.targets.device import device_architecture
from adaptrt.export.targets.engine_builder import EngineApi, build_engine, find_engine_api
from adaptrt.export.targets.target_builder import BuildSettings, Ranges, RegisterPlugins, TargetBuilder
from adaptrt.export.targets.trtexec import trtexec_command, trtexec_script
from adaptrt.ops import DOMAIN
from adaptrt.runtime.bundle.engine_files import EngineFile, EngineStage
from adaptrt.runtime.bundle.target_table import PRECISIONS, TargetRecord

TRTEXEC_SCRIPT = "trtexec.sh"
RTX_ARCHITECTURES = (86, 89, 120)
"""What TensorRT-RTX builds for where there is no GPU to ask: desktop GPUs of 2020 to 2025."""


class TensorRTBuilder(TargetBuilder):
    """Engines for the GPU of this machine; without TensorRT the commands that build them on the device."""

    unbuilt = "TensorRT is not installed: the graphs are prepared, build the engines on the device"

    def __init__(self, record: TargetRecord) -> None:
        super().__init__(record)
        self._api = find_engine_api(record.name)
        if self._api is None and record.required:
            raise ModuleNotFoundError(f"no {record.name}", name=record.modules[-1])
        self.version = self._api.version if self._api else ""

    def resolved(self, settings: BuildSettings) -> BuildSettings:
        """Settings with what this machine tells.

        Raises:
            ExportError: An architecture that the library does not know, or cannot build for here.
        """
        settings = super().resolved(settings)
        if self._api is None:
            return _computable(settings)
        if settings.engine_version and settings.engine_version != self.version:
            raise ExportError(
                f"got version {settings.engine_version}, expected {self.version}, which is installed; "
                "leave --engine-version out"
            )
        return _computable(self._for_devices(settings, self._api, device_architecture()))

    def built(
        self,
        stages: list[EngineStage],
        ranges: Ranges,
        settings: BuildSettings,
        staged: Path,
        tell: Progress,
        register_plugins: RegisterPlugins | None,
    ) -> list[EngineStage]:
        """The stages with their engines; without the library as they are, beside a script that builds them."""
        if self._api is None:
            commands = self.commands(Path(), stages, ranges, settings)
            write_file(staged / TRTEXEC_SCRIPT, trtexec_script(commands).encode())
            return stages
        if settings.plugins == "python" and register_plugins is not None:
            register_plugins(settings.architectures[0], _plugins_of([staged / stage.prepared.file for stage in stages]))
        built = []
        for number, (stage, shapes) in enumerate(zip(stages, ranges, strict=True)):
            tell(f"building stage {number + 1} of {len(stages)}", 0.0)
            engine = staged / f"stage{number}.engine"
            build_engine(
                self._api,
                staged / stage.prepared.file,
                engine,
                shapes,
                architectures=self._named(settings),
                plugin_library=settings.plugin_library,
                progress=tell,
            )
            built.append(msgspec.structs.replace(stage, engine=EngineFile(engine.name, sha256_of(engine))))
        return built

    def commands(
        self, folder: Path, stages: Sequence[EngineStage], ranges: Ranges, settings: BuildSettings
    ) -> list[str]:
        """A ``trtexec`` line for each stage, where the library is not installed."""
        if self._api is not None:
            return []
        library = settings.plugin_library.resolve() if settings.plugin_library else None
        return [
            trtexec_command(folder / stage.prepared.file, folder / f"stage{number}.engine", shapes, library)
            for number, (stage, shapes) in enumerate(zip(stages, ranges, strict=True))
        ]

    def _for_devices(self, settings: BuildSettings, api: EngineApi, here: int | None) -> BuildSettings:
        """Settings for the GPU that is here, or those that were named."""
        given = settings.architectures
        if here is None or (given and given != (here,)):
            there = "no GPU" if here is None else f"a GPU of sm_{here}"
            raise ExportError(
                f"TensorRT builds for the GPU of its machine, and this one has {there}, expected "
                f"{'one' if not given else 'sm_' + ' sm_'.join(map(str, given))}; build on the device"
            )
        return dataclasses.replace(settings, architectures=(here,), engine_version=api.version)

    def _named(self, settings: BuildSettings) -> tuple[int, ...]:  # noqa: ARG002 - TensorRT-RTX's names them
        """Architectures that the library is told; none for the GPU that is there."""
        return ()


def _plugins_of(graphs: Sequence[Path]) -> list[str]:
    """Names of the plugins that graphs ask for."""
    nodes = [node for file in graphs for node in onnx.load(str(file), load_external_data=False).graph.node]
    return sorted({node.op_type for node in nodes if node.domain == DOMAIN})


def _computable(settings: BuildSettings) -> BuildSettings:
    """The settings, if all architectures compute in the precision; one that only some have needs them named.

    Raises:
        ExportError: One does not, or none is known.
    """
    least = PRECISIONS[settings.precision].architectures_from
    if least and not settings.architectures:
        raise ExportError(
            f"got no architecture for {settings.precision}, expected the device's, {least} or later: older GPUs do not "
            f"compute in it; give --arch {least} or what it has"
        )
    for number in settings.architectures:
        if number < least:
            raise ExportError(
                f"got architecture {number} for {settings.precision}, expected {least} or later: older GPUs do not "
                "compute in it; use --precision int8"
            )
    return settings


class TensorRTRTXBuilder(TensorRTBuilder):
    """Engines for any of its architectures, on any machine."""

    def _for_devices(self, settings: BuildSettings, api: EngineApi, here: int | None) -> BuildSettings:
        known = api.architectures
        least = PRECISIONS[settings.precision].architectures_from
        usual = tuple(number for number in RTX_ARCHITECTURES if number >= least)
        chosen = settings.architectures or ((here,) if here in known else usual)
        unknown = [number for number in chosen if number not in known]
        if unknown:
            raise ExportError(
                f"got architecture {unknown[0]}, expected one that {api.target} {api.version} builds for: "
                f"{', '.join(map(str, known))}; name one of them"
            )
        return dataclasses.replace(settings, architectures=tuple(chosen))

    def _named(self, settings: BuildSettings) -> tuple[int, ...]:
        return settings.architectures
