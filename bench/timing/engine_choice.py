"""Which engine a measurement runs on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.loading import open_bundle


@dataclass(frozen=True)
class EngineChoice:
    """What ``adaptrt.runtime.load`` is told of the engine.

    Attributes:
        backend: Its name, or ``auto``.
        precision: To compute in; None leaves it to the backend.
        plugin_library: adaptrt's TensorRT plugins.
    """

    backend: str = DEFAULT_BACKEND
    precision: str | None = None
    plugin_library: Path | None = None

    @property
    def portable(self) -> bool:
        """Whether it is ONNX Runtime on the portable files, which a bare session is, too."""
        return self == EngineChoice()

    @property
    def arguments(self) -> list[str]:
        """For the command line of a worker."""
        given = {"--backend": self.backend, "--precision": self.precision, "--plugin-library": self.plugin_library}
        return [part for option, value in given.items() if value is not None for part in (option, str(value))]


def calibrated_bundle(folder: Path, bundle: Bundle, choice: EngineChoice) -> Bundle:
    """A bundle with the curve of the engine that is to run it.

    Raises:
        BundleError: What was built is damaged, or of another export.
        BackendError: The engine is missing or refuses it.
    """
    if choice.portable:
        return bundle
    chosen = {"backend": choice.backend, "precision": choice.precision, "plugin_library": choice.plugin_library}
    return open_bundle(folder, bundle, threads=1, **chosen).bundle  # type: ignore[arg-type]
