"""Turn compiled kernels into what the plugin library is linked from: ``kernels.cpp`` and ``kernels.bin``.

Reads ``manifest.json`` and the PTX and cubin files it names, checks the manifest's version, every field
and every hash, and writes one file with all images and one C++ source with the tables of
``kernel_table.h``, which includes the images by the assembler's ``.incbin``. What was checked is what is
embedded: the library never reads the files again. The source also holds the table of ``op_contract.h``, made of
``ops.json``, which lies beside this file and is written from the ops' records.

Needs nothing but Python 3.8's standard library, because it also runs where the library is built on a device.

Source of the manifest's form: ``plugins_trt/manifest.py``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
TYPES = {
    "float32": "kFloat32",
    "float16": "kFloat16",
    "bfloat16": "kBFloat16",
    "int32": "kInt32",
    "int64": "kInt64",
    "bool": "kBool",
    "int8": "kInt8",
}
KINDS = {"input": "kInput", "size": "kSize", "output": "kOutput"}
TENSOR_TYPES = {
    "real": "kReal",
    "float32": "kFloat32",
    "int32": "kInt32",
    "int64": "kInt64",
    "bool": "kBool",
    "int8": "kInt8",
}
REALS = ("float32", "float16", "bfloat16")
OPS_FILE = Path(__file__).resolve().parent / "ops.json"
MOST_ARGUMENTS = 24
ALIGNMENT = 64
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_VARIANT = re.compile(r"[A-Za-z0-9_.+-]*\Z")
_TARGET = re.compile(rb"^\s*\.target\s+sm_(\d+)([a-z]?)", re.MULTILINE)


class EmbedError(Exception):
    """A manifest or a file it names cannot be used; the message is one line."""


@lru_cache
def read_ops() -> list[dict[str, Any]]:
    """Read what the plugins know of each op, as ``plugins_trt/op_table.py`` wrote it.

    Raises:
        EmbedError: The file is missing or not readable.
    """
    try:
        ops: list[dict[str, Any]] = json.loads(OPS_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EmbedError(f"got no readable {OPS_FILE} ({_line(error)}); copy all of csrc") from None
    return ops


def versions() -> dict[str, int]:
    """The newest version of each kernel that the library's plugins know how to call."""
    return {op["name"]: op["version"] for op in read_ops() if op["kernels"] == [op["name"]]}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check ``folder/manifest.json``.

    Returns:
        The manifest; under "kernels" only those kernels that a plugin of this library can call.

    Raises:
        EmbedError: The file is missing or not of the form and version expected.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EmbedError(f"got no readable {path} ({_line(error)}); write it with make kernels") from None
    if not isinstance(manifest, dict):
        raise EmbedError(f"{path} holds {type(manifest).__name__}, expected an object; make kernels again")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise EmbedError(f"{path} has format_version {version!r}, expected {FORMAT_VERSION}; make kernels again")
    if not re.fullmatch(r"[0-9a-f]{64}", str(manifest.get("source_sha256"))):
        raise EmbedError(f"{path} has no source_sha256 of 64 hex digits; make kernels again")
    kernels = manifest.get("kernels")
    if not isinstance(kernels, list) or not kernels:
        raise EmbedError(f"{path} names no kernel; make kernels again")
    for number, kernel in enumerate(kernels):
        _check_kernel(kernel, f"{path}, kernel {number}")
    known = versions()
    manifest["kernels"] = [kernel for kernel in kernels if kernel["op"] in known and _is_called(kernel)]
    if not manifest["kernels"]:
        raise EmbedError(f"{path} has kernels of none of {', '.join(known)}; make kernels again")
    return manifest


def _is_called(kernel: dict[str, Any]) -> bool:
    """Whether a plugin of one kernel has just the tensors that the kernel takes, in these dtypes."""
    given = {one["name"]: one["dtype"] for one in kernel["arguments"] if one["kind"] != "size"}
    reals = set(given.values()) & set(REALS)
    for op in read_ops():
        tensors = {tensor["name"]: tensor["dtype"] for tensor in (*op["inputs"], *op["outputs"])}
        if op["kernels"] != [kernel["op"]] or tensors.keys() != given.keys():
            continue
        numbers = {given[name] for name, dtype in tensors.items() if dtype == "real"}
        fixed = all(given[name] == dtype for name, dtype in tensors.items() if dtype != "real")
        if fixed and len(numbers) < 2 and numbers <= reals:
            return True
    return False


def _line(error: object) -> str:
    return " ".join(str(error).split())


def _check_kernel(kernel: Any, where: str) -> None:
    def whole(value: Any, name: str, least: int, most: int = 2**31 - 1) -> None:
        if type(value) is not int or not least <= value <= most:
            raise EmbedError(f"{where}: {name} is {value!r}, expected a whole number from {least} to {most}")

    def text(value: Any, name: str, form: re.Pattern[str]) -> None:
        if not isinstance(value, str) or not form.match(value):
            raise EmbedError(f"{where}: {name} is {value!r}, expected letters, digits and underscores")

    if not isinstance(kernel, dict):
        raise EmbedError(f"{where} is {type(kernel).__name__}, expected an object")
    text(kernel.get("op"), "op", _IDENTIFIER)
    text(kernel.get("entry"), "entry", _IDENTIFIER)
    text(kernel.get("variant"), "variant", _VARIANT)
    whole(kernel.get("version"), "version", 1)
    newest = versions().get(kernel["op"])
    if newest is not None and kernel["version"] > newest:
        raise EmbedError(
            f"{where}: {kernel['op']} has version {kernel['version']}, the plugin knows up to {newest}; "
            "build the plugin from the kernels' sources"
        )
    whole(kernel.get("arch"), "arch", 50, 999)
    whole(kernel.get("threads"), "threads", 1, 1024)
    whole(kernel.get("shared_bytes"), "shared_bytes", 0, 1 << 20)
    arguments = kernel.get("arguments")
    if not isinstance(arguments, list) or not 1 <= len(arguments) <= MOST_ARGUMENTS:
        raise EmbedError(f"{where}: expected a list of 1 to {MOST_ARGUMENTS} arguments")
    for argument in arguments:
        if not isinstance(argument, dict):
            raise EmbedError(f"{where}: an argument is {type(argument).__name__}, expected an object")
        text(argument.get("name"), "an argument's name", _IDENTIFIER)
        if argument.get("kind") not in KINDS:
            kinds = ", ".join(KINDS)
            raise EmbedError(f"{where}: {argument['name']} has kind {argument.get('kind')!r}, expected one of {kinds}")
        if argument["kind"] != "size" and argument.get("dtype") not in TYPES:
            dtypes = ", ".join(TYPES)
            raise EmbedError(
                f"{where}: {argument['name']} has dtype {argument.get('dtype')!r}, expected one of {dtypes}"
            )
    sizes = {argument["name"] for argument in arguments if argument["kind"] == "size"}
    grid = kernel.get("grid")
    if not isinstance(grid, list) or len(grid) != 3 or not all(isinstance(factors, list) for factors in grid):
        raise EmbedError(f"{where}: grid is not three lists of factors")
    for factor in (factor for factors in grid for factor in factors):
        if not isinstance(factor, dict) or factor.get("size") not in sizes:
            raise EmbedError(f"{where}: grid factor {factor!r} names none of the sizes {', '.join(sorted(sizes))}")
        whole(factor.get("per"), f"grid factor per of {factor['size']}", 1)
    for member, least in (("requires", 1), ("at_least", 0)):
        demands = kernel.get(member, {})
        if not isinstance(demands, dict) or not sizes.issuperset(demands):
            raise EmbedError(f"{where}: {member} is {demands!r}, expected numbers for {', '.join(sorted(sizes))}")
        for name, number in demands.items():
            whole(number, f"{member} {name}", least)


def _read_image(folder: Path, kernel: dict[str, Any], kind: str) -> bytes:
    record = kernel.get(kind)
    name = record.get("file") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(name, str):
        raise EmbedError(f"{kernel['entry']} for sm_{kernel['arch']} names no {kind} file; make kernels again")
    path = (folder / name).resolve()
    if folder.resolve() not in path.parents:
        raise EmbedError(f"{kind} file {name} lies outside {folder}; make kernels again")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EmbedError(f"got no {path} ({error.strerror}), which the manifest names; make kernels again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != record.get("sha256"):
        raise EmbedError(f"{path} has SHA-256 {digest}, the manifest says {record.get('sha256')}; make kernels again")
    if kind == "cubin" and not content.startswith(b"\x7fELF"):
        raise EmbedError(f"{path} is no cubin: it does not begin as an ELF file; make kernels again")
    if kind == "ptx" and b"\0" in content:
        raise EmbedError(f"{path} is no PTX: it holds a zero byte; make kernels again")
    return content


def _runs_on_later(ptx: bytes, kernel: dict[str, Any]) -> bool:
    """Whether the PTX may be compiled for architectures above its own: sm_87 may, sm_90a may not."""
    target = _TARGET.search(ptx)
    if target is None or int(target[1]) != kernel["arch"]:
        target_name = "none" if target is None else f"sm_{target[1].decode()}"
        raise EmbedError(
            f"the PTX of {kernel['entry']} has target {target_name}, expected sm_{kernel['arch']}; make kernels again"
        )
    return not target[2]


def contracts_text(ops: list[dict[str, Any]]) -> list[str]:
    """Give the lines of ``opContracts``, the table of what the plugins know of each op."""

    def texts(words: list[str]) -> str:
        return "{" + ", ".join(f'"{word}"' for word in words) + "}"

    def tensors(rules: list[dict[str, Any]]) -> str:
        rows = []
        for rule in rules:
            axes = ", ".join(f"AxisRule{texts(axis.split('*'))}" for axis in rule["axes"])
            rows.append(f'TensorRule{{"{rule["name"]}", TypeRule::{TENSOR_TYPES[rule["dtype"]]}, {{{axes}}}}}')
        return "{" + ", ".join(rows) + "}"

    def attributes(rules: list[dict[str, Any]]) -> str:
        rows = []
        for rule in rules:
            words = ", ".join(f'Word{{"{word}", {number}}}' for word, number in rule["words"].items())
            rows.append(f'AttributeRule{{"{rule["name"]}", "{rule["size"]}", {{{words}}}}}')
        return "{" + ", ".join(rows) + "}"

    rows = [
        f'      OpContract{{"{op["name"]}", {op["version"]}, {tensors(op["inputs"])}, {tensors(op["outputs"])},\n'
        f"       {tensors(op['scratch'])}, {attributes(op['attributes'])}, {texts(op['kernels'])}}},"
        for op in ops
    ]
    return [
        "std::vector<OpContract> const& opContracts() {",
        "  // Never destroyed: plugins and creators outlive the library's other statics.",
        "  static auto const* const contracts = new std::vector<OpContract>{",
        *rows,
        "  };",
        "  return *contracts;",
        "}",
    ]


def source_text(manifest: dict[str, Any], folder: Path, images_path: Path) -> tuple[str, bytes]:
    """Give the C++ source and the images that it includes from ``images_path``.

    Raises:
        EmbedError: A file is missing, outside ``folder``, or not what the manifest says.
    """
    images = bytearray()
    at: dict[bytes, int] = {}

    def place(content: bytes) -> str:
        if content not in at:
            images.extend(bytes(-len(images) % ALIGNMENT))
            at[content] = len(images)
            # The driver reads PTX up to a zero byte.
            images.extend(content + b"\0")
        return f"{{{at[content]}, {len(content)}}}"

    tables: list[str] = []
    rows: list[str] = []

    def table(name: str, element: str, entries: list[str]) -> str:
        if not entries:
            return "{nullptr, 0}"
        tables.append(f"const {element} {name}[] = {{{', '.join(entries)}}};")
        return f"{{{name}, {len(entries)}}}"

    for number, kernel in enumerate(manifest["kernels"]):
        ptx = _read_image(folder, kernel, "ptx")
        arguments = [
            f'{{"{argument["name"]}", ArgumentKind::{KINDS[argument["kind"]]}, '
            f"ElementType::{TYPES[argument.get('dtype') or 'int32']}}}"
            for argument in kernel["arguments"]
        ]
        grid = [
            table(f"kGrid{number}_{axis}", "GridFactor", [f'{{"{f["size"]}", {f["per"]}}}' for f in factors])
            for axis, factors in enumerate(kernel["grid"])
        ]
        multiples, least = kernel.get("requires", {}), kernel.get("at_least", {})
        requirements = [
            f'{{"{name}", {multiples.get(name, 1)}, {least.get(name, 0)}}}' for name in {**multiples, **least}
        ]
        rows.append(
            f'    {{"{kernel["op"]}", {kernel["version"]}, "{kernel["variant"]}", {kernel["arch"]},\n'
            f'     "{kernel["entry"]}",\n'
            f"     {table(f'kArguments{number}', 'KernelArgument', arguments)}, {{{', '.join(grid)}}},\n"
            f"     {table(f'kRequires{number}', 'Requirement', requirements)}, "
            f"{kernel['threads']}, {kernel['shared_bytes']},\n"
            f"     {place(_read_image(folder, kernel, 'cubin'))}, {place(ptx)}, "
            f"{str(_runs_on_later(ptx, kernel)).lower()}}},"
        )
    path = str(images_path.resolve())
    if any(character in path for character in '"\\\n'):
        raise EmbedError(f"the path {path!r} cannot be written into a source file; build in another folder")
    lines = [
        "// Written by embed_kernels.py from a manifest of kernels and from ops.json.",
        '#include "kernel_table.h"',
        '#include "op_contract.h"',
        "",
        '__asm__(".pushsection .rodata\\n"',
        f'        ".balign {ALIGNMENT}\\n"',
        '        ".globl adaptrt_kernel_images\\n"',
        '        ".hidden adaptrt_kernel_images\\n"',
        '        ".type adaptrt_kernel_images, %object\\n"',
        '        "adaptrt_kernel_images:\\n"',
        f'        ".incbin \\"{path}\\"\\n"',
        '        ".size adaptrt_kernel_images, . - adaptrt_kernel_images\\n"',
        '        ".popsection\\n");',
        'extern "C" __attribute__((visibility("hidden"))) const unsigned char adaptrt_kernel_images[];',
        "",
        "namespace adaptrt {",
        "namespace {",
        *tables,
        "const Kernel kRows[] = {",
        *rows,
        "};",
        "}  // namespace",
        f"extern const Table<Kernel> kKernels = {{kRows, {len(rows)}}};",
        "extern const unsigned char* const kImages = adaptrt_kernel_images;",
        f'extern const char* const kSourceHash = "{manifest["source_sha256"]}";',
        *contracts_text(read_ops()),
        "}  // namespace adaptrt",
        "",
    ]
    return "\n".join(lines), bytes(images)


def _write(path: Path, content: bytes) -> None:
    """Write so that the file is whole or not there, and not newer where nothing changed."""
    if path.exists() and path.read_bytes() == content:
        path.touch()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def main(arguments: list[str] | None = None) -> int:
    """Run as a command; 0 when both files are written, 2 with one line on stderr otherwise."""
    parser = argparse.ArgumentParser(description="Embed compiled kernels into a C++ source.")
    parser.add_argument("kernels", type=Path, help="folder with manifest.json, as make kernels writes it")
    parser.add_argument("--source", type=Path, required=True, help="C++ file to write")
    parser.add_argument("--images", type=Path, required=True, help="binary file to write beside it")
    options = parser.parse_args(arguments)
    try:
        manifest = read_manifest(options.kernels)
        text, images = source_text(manifest, options.kernels, options.images)
        _write(options.images, images)
        _write(options.source, text.encode())
    except (EmbedError, OSError) as error:
        print(f"embed_kernels: {_line(error)}", file=sys.stderr)
        return 2
    except (TypeError, ValueError) as error:
        reason = f"is not of the form expected ({_line(error)}); make kernels again"
        print(f"embed_kernels: {options.kernels} {reason}", file=sys.stderr)
        return 2
    architectures = sorted({kernel["arch"] for kernel in manifest["kernels"]})
    ops = sorted({kernel["op"] for kernel in manifest["kernels"]})
    print(
        f"embedded {len(manifest['kernels'])} kernels of {', '.join(ops)} for "
        f"{', '.join(f'sm_{arch}' for arch in architectures)}, {len(images)} bytes"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
