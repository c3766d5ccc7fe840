"""Engines kept in a bundle: ``engines/<target>-<precision>/engine.json`` and the files that it names.

``adaptrt build BUNDLE --target …`` writes such a folder: each stage's graph prepared for one engine, and
the engine itself where one was built. A folder belongs to the bundle that it was made from: it notes the
hash of every stage's ONNX file, and engines of a bundle that has since been exported again are refused.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from pathlib import Path

import msgspec

from adaptrt.runtime.bundle import bundle_files
from adaptrt.runtime.bundle.expectations import MAX_TEXT, Invalid, short
from adaptrt.runtime.bundle.external_data import external_locations
from adaptrt.runtime.bundle.schema import Bundle
from adaptrt.runtime.bundle.target_table import TARGETS, all_plugins, all_precisions
from adaptrt.runtime.bundle.validation import MAX_ENTRIES, SHA256, check_relative_path
from adaptrt.runtime.errors import BundleError, one_line

FORMAT_VERSION = 1
ENGINES = "engines"
ENGINE_FILE = "engine.json"
MAX_ENGINE_FILE_BYTES = 16 * 1024 * 1024
MAX_ENGINE_BYTES = 2**34

_ARCHITECTURES = re.compile(r"(\d{2,3}( \d{2,3})*)?", re.ASCII)
_VERSION = re.compile(r"[0-9A-Za-z.+_-]{0,100}", re.ASCII)


class EngineFile(msgspec.Struct, frozen=True):
    """A file beside ``engine.json``; ``file`` is relative to its folder, ``sha256`` 64 lowercase hexadecimal digits."""

    file: str
    sha256: str


class EngineStage(msgspec.Struct, frozen=True):
    """What one stage of the bundle became.

    Attributes:
        source_sha256: of the stage's ONNX file in the bundle, as ``bundle.json`` has it.
        prepared: the graph as the engine's parser takes it.
        engine: the engine built of it; None where none was built.
        external_data: files of weights that ``prepared`` refers to.
    """

    source_sha256: str
    prepared: EngineFile
    engine: EngineFile | None = None
    external_data: list[EngineFile] = []


class EngineSet(msgspec.Struct, frozen=True):
    """``engine.json``: one network prepared for one engine.

    Attributes:
        format_version: ``FORMAT_VERSION``; another is refused.
        target: one of ``TARGETS``.
        precision: one of the target's, of what is not kept in float32 for its own sake.
        engine_version: of the library that built the engines, such as ``10.13.3.9``; empty where none was.
        arch: compute capabilities of the devices that it is for, as in ``"87"`` or ``"86 89 120"``; empty
            for any.
        plugins: where adaptrt's ops come from, as the target has it: ``none`` (standard operators),
            ``library`` (a plugin library must be loaded), ``python`` (the engine carries the kernels).
        stages: one for each stage of the bundle, in order.
        quality: on the golden inputs, of the prepared graphs; None where it was not measured.
        reference_quality: on the same inputs, of the bundle as it was exported.
        dense_quality: on the same inputs, of ``dense``: how far its answers are those of the dense model's own graph.
        flip_rate: share of the decisions on the golden inputs that came out otherwise than in the bundle.
        largest_difference: between its outputs and the bundle's on the golden inputs.
        weight_bits: of int8 weights, 7 (right on every CPU) or 8; None for other precisions.
        activations: how activations of bytes get their scales: ``static``, most of them fixed, or ``token``, from each
            token; None for other precisions than int8 and fp8.
        dense: what the dense model's graph became, which answers full budgets as ``Dense`` in ``bundle.json`` says;
            its source is that graph. None where the stages answer. A device may leave its file out.
        dense_activations: how the activations of ``dense`` get their scales, as ``activations``.
    """

    format_version: int
    target: str
    precision: str
    engine_version: str
    arch: str
    plugins: str
    stages: list[EngineStage]
    quality: float | None = None
    reference_quality: float | None = None
    dense_quality: float | None = None
    flip_rate: float | None = None
    largest_difference: float | None = None
    weight_bits: int | None = None
    activations: str | None = None
    dense: EngineStage | None = None
    dense_activations: str | None = None


class _Version(msgspec.Struct):
    """Read first, so that a future format is named as such whatever else has changed in it."""

    format_version: int | None = None


def engine_folder(bundle: Path, target: str, precision: str) -> Path:
    """Where a bundle keeps what was built for a target in a precision.

    Raises:
        BundleError: there is no such target or precision.
    """
    for name, value, known in (("target", target, TARGETS), ("precision", precision, all_precisions())):
        if value not in known:
            raise BundleError(f"got {name} {value!r}, expected one of {', '.join(known)}; name one")
    return bundle / ENGINES / f"{target}-{precision}"


def build_command(bundle: Path, target: str, precision: str, plugins: str = "none", arch: str = "") -> str:
    """What to type to build a folder of engines anew, for the GPU that is there or for ``arch``."""
    command = f"adaptrt build {shlex.quote(str(bundle))} --target {target}"
    if precision != "fp32":
        command += f" --precision {precision}"
    if plugins != "none":
        command += f" --plugins {plugins}"
    return command + "".join(f" --arch {capability}" for capability in arch.split())


def read_engines(folder: Path, *, verify_hashes: bool = True) -> EngineSet:
    """Read and check a folder of engines.

    Args:
        folder: ``engine_folder`` of a bundle.
        verify_hashes: also read every file that it names and compare its hash. Backends do so on the
            very bytes that they hand to the engine.

    Raises:
        BundleError: it is missing, truncated, of another format version or of absurd size, a file that it
            names is missing, altered or outside the folder, or a link leads out of the bundle.
    """
    root, again = _root(folder), _again(folder)
    try:
        text = bundle_files.read_file(root, ENGINE_FILE, limit=MAX_ENGINE_FILE_BYTES, lister="the backend", again=again)
        engines = _decode(text)
        _check(engines)
        if folder.name != f"{engines.target}-{engines.precision}":
            raise Invalid(f"for {engines.target}-{engines.precision}, expected {short(folder.name)}, as its folder is")
    except Invalid as error:
        raise BundleError(f"{folder / ENGINE_FILE}: {error}; {again}") from None
    there = [engines.dense] if engines.dense is not None and dense_is_there(folder, engines) else []
    for stage in (*engines.stages, *there):
        for file in _files(stage):
            path = bundle_files.locate(root, file.file, lister=ENGINE_FILE, again=again)
            if verify_hashes:
                bundle_files.compare_hash(root, file.file, bundle_files.hash_file(path), file.sha256, again=again)
    return engines


def encode_engines(engines: EngineSet) -> bytes:
    """The bytes of ``engine.json``: indented, the same for equal contents, checked like one read.

    Raises:
        BundleError: ``read_engines`` would refuse the result.
    """
    try:
        return bundle_files.encode_checked(engines, _check, _decode)
    except (Invalid, TypeError, ValueError) as error:
        raise BundleError(f"{ENGINE_FILE} not written: {one_line(error)}; correct it") from None


def check_source(engines: EngineSet, bundle: Bundle, folder: Path) -> None:
    """Refuse engines that were made of another export.

    Args:
        engines: read from ``folder``.
        bundle: that they are to run.
        folder: for messages.

    Raises:
        BundleError: a stage's ONNX file is not the one that they were made of.
    """
    sources, there = [s.source_sha256 for s in engines.stages], [s.sha256 for s in bundle.stages]
    again = _again(folder)
    if len(sources) != len(there):
        raise BundleError(f"{folder}: made of {len(sources)} stages, expected {len(there)} as in the bundle; {again}")
    made_of = [(f"stage {number}", *pair) for number, pair in enumerate(zip(sources, there, strict=True))]
    if engines.dense is not None:
        made_of.append(("the dense graph", engines.dense.source_sha256, bundle.dense.sha256 or "none"))
    for what, source, file in made_of:
        if source != file:
            raise BundleError(
                f"{folder}: {what} was made of a file whose sha256 is {source[:12]}…, expected {file[:12]}… as in the "
                f"bundle, which was exported again since; {again}"
            )


def dense_is_there(folder: Path, engines: EngineSet) -> bool:
    """Whether the dense model was prepared, and a device did not leave its file out."""
    return engines.dense is not None and (folder / engines.dense.prepared.file).exists()


def read_prepared(folder: Path, stage: EngineStage) -> bytes:
    """A stage's prepared graph, the bytes whose hash was compared. Weights beside it are hashed where they lie.

    Raises:
        BundleError: it is missing, altered, too large, outside the folder, no ONNX file, or refers to weights that
            ``engine.json`` does not list.
    """
    root, again = _root(folder), _again(folder)
    for data in stage.external_data:
        path = bundle_files.locate(root, data.file, lister=ENGINE_FILE, again=again)
        bundle_files.compare_hash(root, data.file, bundle_files.hash_file(path), data.sha256, again=again)
    model = _read(root, stage.prepared, bundle_files.MAX_MODEL_BYTES, again)
    file, names = stage.prepared.file, [data.file for data in stage.external_data]
    try:
        locations = external_locations(model)
    except ValueError as error:
        raise BundleError(f"{folder}: {file!r} is not an ONNX file ({one_line(error)}); {again}") from None
    bundle_files.check_locations(root, file, locations, names, lister=ENGINE_FILE, again=again)
    return model


def read_engine(folder: Path, stage: EngineStage) -> bytes:
    """A stage's engine, the bytes whose hash was compared.

    Raises:
        BundleError: there is none, or as ``read_prepared``.
    """
    if stage.engine is None:
        raise BundleError(
            f"{folder}: {stage.prepared.file!r} is prepared, but no engine was built of it; {_again(folder)}"
        )
    return _read(_root(folder), stage.engine, MAX_ENGINE_BYTES, _again(folder))


def _read(root: Path, file: EngineFile, limit: int, again: str) -> bytes:
    content = bundle_files.read_file(root, file.file, limit=limit, lister=ENGINE_FILE, again=again)
    bundle_files.compare_hash(root, file.file, hashlib.sha256(content).hexdigest(), file.sha256, again=again)
    return content


def _files(stage: EngineStage) -> list[EngineFile]:
    return [stage.prepared, *([stage.engine] if stage.engine else []), *stage.external_data]


def _root(folder: Path) -> Path:
    """The folder with symbolic links resolved, which must not lead out of the bundle."""
    try:
        root = folder.resolve(strict=True)
        bundle = (folder.parent.parent if folder.parent.name == ENGINES else folder).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise BundleError(
            f"no folder {str(folder)!r}, expected what was built for this engine; {_again(folder)}"
        ) from None
    if not root.is_relative_to(bundle):
        raise BundleError(f"{folder}: a link that leaves the bundle, expected a folder inside it; {_again(folder)}")
    return root


def _again(folder: Path) -> str:
    """What to do about a folder that cannot be used."""
    target, _, precision = folder.name.rpartition("-")
    if folder.parent.name != ENGINES or target not in TARGETS or precision not in all_precisions():
        return "build it again with `adaptrt build`"
    return f"run `{build_command(folder.parent.parent, target, precision)}`"


def _decode(text: bytes) -> EngineSet:
    try:
        version = msgspec.json.decode(text, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise Invalid(f"format_version is {'missing' if version is None else version}, expected {FORMAT_VERSION}")
        return msgspec.json.decode(text, type=EngineSet)
    except msgspec.ValidationError as error:
        raise Invalid(one_line(error)) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not readable as JSON ({one_line(error)})") from None


def _check(engines: EngineSet) -> None:
    for name, value, known in (
        ("target", engines.target, TARGETS),
        ("precision", engines.precision, all_precisions()),
        ("plugins", engines.plugins, all_plugins()),
    ):
        _expect(value in known, f"{name} {short(value)}", f"one of {', '.join(known)}")
    version = engines.engine_version
    _expect(_VERSION.fullmatch(version) is not None, f"engine_version {short(version)}", "a version such as 10.13.3.9")
    fine = _ARCHITECTURES.fullmatch(engines.arch) is not None and len(engines.arch) <= MAX_TEXT
    _expect(fine, f"arch {short(engines.arch)}", "compute capabilities such as '87' or '86 89 120'")
    _expect(1 <= len(engines.stages) <= MAX_ENTRIES, f"{len(engines.stages)} stages", f"1 to {MAX_ENTRIES}")
    for name in ("quality", "reference_quality", "dense_quality", "flip_rate", "largest_difference"):
        number = getattr(engines, name)
        _expect(number is None or math.isfinite(number), f"{name} {number}", "a finite number")
    rate = engines.flip_rate
    _expect(rate is None or 0 <= rate <= 1, f"flip_rate {rate}", "0 to 1")
    bits = engines.weight_bits
    _expect(bits in {None, 7, 8}, f"weight_bits {bits}", "7, 8 or none")
    for name in ("activations", "dense_activations"):
        scales = getattr(engines, name)
        _expect(scales in {None, "static", "token"}, f"{name} {short(scales or '')}", "static, token or none")
    names: list[str] = []
    for number, stage in enumerate(engines.stages):
        _check_stage(f"stages[{number}]", stage)
        names += [file.file for file in _files(stage)]
    if engines.dense is not None:
        _check_stage("dense", engines.dense)
        _expect(engines.dense.engine is None, "dense: an engine", "its graph alone")
        names += [file.file for file in _files(engines.dense)]
    twice = next((name for name in names if names.count(name) > 1), None)
    _expect(twice is None, f"file {short(twice or '')} twice", "each file once")
    built = sum(stage.engine is not None for stage in engines.stages)
    _expect(built in {0, len(engines.stages)}, f"engines of {built} of {len(engines.stages)} stages", "all or none")
    _expect(bool(version) or not built, "engines without engine_version", "the version that built them")


def _check_stage(where: str, stage: EngineStage) -> None:
    fine = SHA256.fullmatch(stage.source_sha256) is not None
    _expect(fine, f"{where}: source_sha256 {short(stage.source_sha256)}", "64 lowercase hexadecimal digits")
    _expect(len(stage.external_data) <= MAX_ENTRIES, f"{where}: {len(stage.external_data)} data files", "fewer")
    for file in _files(stage):
        try:
            check_relative_path(where, file.file)
        except Invalid:
            plain = False
        else:
            plain = file.file != ENGINE_FILE
        _expect(plain, f"{where}: path {short(file.file)}", "a relative path inside the folder")
        fine = SHA256.fullmatch(file.sha256) is not None
        _expect(fine, f"{where}: sha256 {short(file.sha256)}", "64 lowercase hexadecimal digits")


def _expect(fine: bool, got: str, expected: str) -> None:
    if not fine:
        raise Invalid(f"{got}, expected {expected}")
