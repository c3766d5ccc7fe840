"""What a target does beyond preparing graphs, and the settings of a build."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptrt.export.calibration.evaluations import Progress
from adaptrt.export.targets.prepare import Prepared
from adaptrt.export.targets.profiles import DEFAULT_BATCH, InputRange, SizeRange
from adaptrt.runtime.bundle.engine_files import EngineStage
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TargetRecord

MAX_QUALITY_DROP = 0.01

Ranges = Sequence[Mapping[str, InputRange]]
"""For each stage the sizes of its inputs with dynamic axes."""
RegisterPlugins = Callable[[int, Sequence[str]], None]
"""Registers the Python plugins of these names for a compute capability."""


@dataclass(frozen=True)
class BuildSettings:
    """What to build.

    Attributes:
        target: A name of ``TARGETS``.
        precision: One of the target's.
        architectures: Compute capabilities, as 89; empty for this machine's GPU, or those the builder knows best.
        plugins: Where adaptrt's ops come from, as the target has it.
        plugin_library: The shared object, for ``library``.
        engine_version: Of the engine to prepare for where it is not installed; empty if not known.
        batch: Sizes of the batch that engines are built for.
        tokens: Numbers of tokens, where they are dynamic; None derives them.
        max_quality_drop: How much lower than the bundle's the share of golden predictions may be, 0..1.
        verify: Whether an engine that compiles the prepared graphs, where it is installed, has to agree.
        weight_bits: Of int8 weights: 7, whose products are exact on every CPU, or 8.
        activations: How int8 activations get their scales, one of ``ACTIVATIONS`` of ``int8_scales.py``.
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
    weight_bits: int = 7
    activations: str = "auto"
    rebuild: bool = False


class TargetBuilder:
    """Prepared graphs and nothing more: what a backend needs that compiles them when it loads them.

    Targets with an engine of their own derive from this and name their class in their row.

    Args:
        record: The target's row.

    Attributes:
        version: Of the library that builds engines here; empty where none is built.
        unbuilt: What the user should know where there are commands to build engines elsewhere.

    Raises:
        ModuleNotFoundError: The target's library is required and not installed.
    """

    version = ""
    unbuilt = ""

    def __init__(self, record: TargetRecord) -> None:
        self.record = record

    def resolved(self, settings: BuildSettings) -> BuildSettings:
        """Settings with what this machine tells.

        Raises:
            ExportError: Nothing can be built so here.
        """
        return dataclasses.replace(settings, architectures=tuple(sorted(set(settings.architectures))))

    def verified(
        self,
        folder: Path,  # noqa: ARG002 - what a target may need
        bundle: Bundle,  # noqa: ARG002
        prepared: Sequence[Prepared],  # noqa: ARG002
        settings: BuildSettings,  # noqa: ARG002
        tell: Progress,  # noqa: ARG002
    ) -> float | None:
        """Largest difference of the engine's logits from ONNX Runtime's on the prepared graphs; None if not asked.

        Raises:
            ParityError: It is too large.
        """
        return None

    def built(
        self,
        stages: list[EngineStage],
        ranges: Ranges,  # noqa: ARG002 - as above
        settings: BuildSettings,  # noqa: ARG002
        staged: Path,  # noqa: ARG002
        tell: Progress,  # noqa: ARG002
        register_plugins: RegisterPlugins | None,  # noqa: ARG002
    ) -> list[EngineStage]:
        """The stages with the engines that were built of them, in the folder ``staged`` beside the prepared graphs.

        Raises:
            ExportError: The engine refuses a graph.
        """
        return stages

    def commands(
        self,
        folder: Path,  # noqa: ARG002 - as above
        stages: Sequence[EngineStage],  # noqa: ARG002
        ranges: Ranges,  # noqa: ARG002
        settings: BuildSettings,  # noqa: ARG002
    ) -> list[str]:
        """What to type elsewhere to build the engines that were not built here."""
        return []
