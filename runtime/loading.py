"""Loading a bundle: everything is checked before an engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptrt.runtime.backends import Backend, BackendSettings, Provider, check_threads
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.backends.selection import Chosen, check_backend, create_backends
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.bundle.engine_calibration import with_engine_curve
from adaptrt.runtime.bundle.engine_files import engine_folder
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TARGETS
from adaptrt.runtime.control.table_check import check_table
from adaptrt.runtime.device.processors import granted_processors
from adaptrt.runtime.errors import BackendError
from adaptrt.runtime.model import AdaptiveModel


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    backend: str = DEFAULT_BACKEND,
    providers: Sequence[Provider] | None = None,
    precision: str | None = None,
    plugin_library: str | Path | None = None,
) -> AdaptiveModel:
    """Load an exported folder.

    Everything is checked first: the schema, that no path and no reference to weights leaves the folder,
    and every file's hash, on the very bytes that then run.

    Args:
        path: the folder that ``adaptrt export`` wrote.
        threads: that one operator may use; None takes the physical cores that the process may run on, as far as the
            quota of its control group feeds them (`adaptrt.runtime.device.processors`). More than the system lets
            the process start are refused. A GPU has no use for it. The stages run in turn.
        backend: a name of ``BACKENDS`` (`adaptrt.runtime.backends.backend_table`), which then runs or an error is
            raised. All but the default run what ``adaptrt build`` put into the bundle. ``"auto"`` takes what is
            there, the fastest first, and ``AdaptiveModel.backend_reason`` says why.
        providers: ONNX Runtime's execution providers in order of preference; None is the CPU.
        precision: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or ``"fp8"``, as far as the backend has it. None is
            float32, and with TensorRT the lowest that was built.
        plugin_library: the shared library of adaptrt's TensorRT plugins, for engines built with
            ``--plugins library``. It is loaded into the process: name one that you trust.

    Raises:
        BundleError: the bundle is missing, damaged, or of another version, or its stages were mixed up.
        BackendError: the backend is missing or refuses the model or a setting.
    """
    check_backend(backend)
    bundle = read_bundle(path, verify_hashes=False)  # the hash is taken where the bytes are used
    return open_bundle(
        path,
        bundle,
        threads=threads,
        backend=backend,
        providers=providers,
        precision=precision,
        plugin_library=plugin_library,
    )


def open_bundle(
    path: str | Path,
    bundle: Bundle,
    *,
    threads: int | None = None,
    backend: str = DEFAULT_BACKEND,
    providers: Sequence[Provider] | None = None,
    precision: str | None = None,
    plugin_library: str | Path | None = None,
) -> AdaptiveModel:
    """Load a folder by a description that need not be in it: exports and calibrations run it before it is written.

    Args:
        path: the folder with the files that the description names.
        bundle: as ``read_bundle`` would give it.
        threads: as for ``load``.
        backend: likewise.
        providers: likewise.
        precision: likewise.
        plugin_library: likewise.

    Raises:
        BundleError: a file is missing, damaged or another one, or the budget table contradicts the curve.
        BackendError: as for ``load``.
    """
    check_table(bundle)
    library = None if plugin_library is None else Path(plugin_library)
    threads = granted_processors().threads if threads is None else check_threads(threads)
    settings = BackendSettings(threads=threads, providers=providers, precision=precision, plugin_library=library)
    root = Path(path).resolve()
    chosen = create_backends(backend, root, bundle, settings)
    if bundle.curve:  # else its own is about to be found
        bundle = _as_calibrated(root, bundle, chosen)
        check_table(bundle)

    def reload() -> tuple[Sequence[Backend], Backend | None]:
        if not chosen.on_host:
            raise BackendError(
                "got a model that was loaded on a GPU before this process was forked, expected one loaded in this "
                "process; load the bundle in each process"
            )
        again = create_backends(chosen.name, root, bundle, settings)
        return again.backends, again.unsplit

    return AdaptiveModel(
        bundle,
        chosen.backends,
        threads=threads,
        backend_name=chosen.name,
        backend_reason=chosen.reason,
        precision=chosen.precision,
        reload=reload,
        unsplit=chosen.unsplit,
        root=root,
    )


def _as_calibrated(root: Path, bundle: Bundle, chosen: Chosen) -> Bundle:
    """The bundle with the curve of what runs it, where that was measured.

    Raises:
        BundleError: it is damaged, or of another export.
    """
    target = BACKENDS[chosen.name].built_for(chosen.precision)
    if not target or chosen.precision not in TARGETS[target].precisions:
        return bundle
    return with_engine_curve(engine_folder(root, target, chosen.precision), bundle)
