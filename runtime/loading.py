"""Loading a bundle: everything is checked before an engine sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptrt.runtime import bundle_files
from adaptrt.runtime.backends import Backend, Provider, StageProgram, check_backend, create_backend
from adaptrt.runtime.bundle import read_bundle
from adaptrt.runtime.model import AdaptiveModel
from adaptrt.runtime.stage_interface import check_interfaces


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    backend: str = "onnxruntime",
    providers: Sequence[Provider] | None = None,
) -> AdaptiveModel:
    """Load an exported folder.

    Everything is checked first: the schema, that no path and no reference to weights leaves the folder,
    and every file's hash, on the very bytes that then run.

    Args:
        path: the folder that ``adaptrt export`` wrote.
        threads: that one operator may use; None leaves it to the backend. The stages run in turn.
        backend: ``"onnxruntime"``.
        providers: ONNX Runtime's execution providers in order of preference; None is the CPU.

    Raises:
        BundleError: the bundle is missing, damaged, or of another version, or its stages were mixed up.
        BackendError: the backend is missing or refuses the model or a setting.
    """
    check_backend(backend)
    bundle = read_bundle(path, verify_hashes=False)  # the hash is taken below, where the bytes are used
    root = bundle_files.bundle_root(path)
    outputs = tuple(spec.name for spec in bundle.outputs)
    engines: list[Backend] = []
    for number, stage in enumerate(bundle.stages):
        file = root / stage.file
        program = StageProgram(
            model=bundle_files.read_stage(root, stage, place=bundle_files.stage_place(bundle, number)),
            file=file,
            data_folder=file.parent if stage.external_data else None,
            outputs=outputs,
            alone=len(bundle.stages) == 1,
        )
        engines.append(create_backend(backend, program, threads=threads, providers=providers))
    check_interfaces(bundle, engines, root)
    return AdaptiveModel(bundle, engines, threads=threads)
