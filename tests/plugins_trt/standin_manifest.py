"""A manifest of kernels that no GPU ever runs: every case of choosing one, in files of some hundred bytes.

The plugin library is built from it for tests; the stand-in driver knows the images by their content and computes
what the ops' kernels would. What the kernels themselves compute is tested where they live.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from adaptrt.plugins_trt.kernel_records import ACTIVATIONS, KERNEL_RECORDS, VALUES, WEIGHTS, Grid

REALS = ("float16", "bfloat16", "float32")

# Tiles that are no kernel's own.
_BLOCKS = {"BLOCK_T": 64, "BLOCK_H": 16, "BLOCK_E": 16, "BLOCK_D": 128}


def kernel(
    op: str, arch: int, dtype: str, variant: str = "any", shared: int = 0, weights: str = "", activations: str = ""
) -> dict[str, Any]:
    """One kernel of the manifest, its files not yet named; weights and activations are of ``dtype`` unless given."""
    record = KERNEL_RECORDS[op]
    own = {VALUES: dtype, WEIGHTS: weights or dtype, ACTIVATIONS: activations or dtype, None: None}
    arguments = [
        {"name": argument.name, "kind": argument.kind, "dtype": own.get(argument.dtype, argument.dtype)}
        for argument in record.arguments_of(weights, activations)
    ]
    aligned = record.aligned if variant.startswith("aligned") else ()
    return {
        "op": op,
        "version": 1,
        "variant": variant,
        "arch": arch,
        "dtype": dtype,
        "weights": weights or dtype,
        "activations": activations or dtype,
        "entry": record.entry,
        "threads": 64 if variant == "any" else 128,
        "shared_bytes": shared,
        "registers": 32,
        "spill_bytes": 0,
        "requires": dict.fromkeys(aligned, 16),
        "at_least": {"T": 512} if variant.endswith("large") else {},
        "arguments": arguments,
        "grid": [[{"size": f.size, "per": f.blocked(_BLOCKS)} for f in factors] for factors in _spread(record.grid)],
    }


def _spread(grid: Grid) -> Grid:
    """A grid of several factors on one axis as one of two axes, so that both are tried."""
    first, second, third = grid
    return grid if second else (first[:1], first[1:], third)


def all_kernels() -> list[dict[str, Any]]:
    """sm_75: float16, any size. sm_87: all but what a comment says. sm_90: float16, aligned sizes, sm_90a.

    int8 weights are those of sm_87 alone.
    """
    kernels = [
        kernel(op, arch, "int32")
        for op, record in KERNEL_RECORDS.items()
        for arch in (75, 87, 90)
        if not record.has_values
    ]
    for op in (op for op, record in KERNEL_RECORDS.items() if record.has_values):
        kernels.append(kernel(op, 75, "float16"))
        for dtype in REALS:
            kernels.append(kernel(op, 87, dtype, "aligned16-large", shared=65536))
            kernels.append(kernel(op, 87, dtype, "aligned16", shared=49152))
            # bfloat16 has no kernel for odd sizes.
            if dtype != "bfloat16":
                kernels.append(kernel(op, 87, dtype))
        kernels.append(kernel(op, 90, "float16", "aligned16", shared=200000))
    for op in (op for op, record in KERNEL_RECORDS.items() if record.has_weights):
        for dtype in ("float16", "bfloat16"):
            for activations in ("", "int8"):
                kernels += [
                    kernel(op, 87, dtype, variant, weights="int8", activations=activations)
                    for variant in ("aligned16", "any")
                ]
    # Weights of another type without their scales: nothing the plugins know of asks for it.
    quantised = kernel("ConditionalMLPUp", 87, "float16", "aligned16")
    quantised["weights"] = "int8, no scales"
    quantised["arguments"][3]["dtype"] = "int8"
    return [quantised, *kernels]


def ptx_of(record: dict[str, Any], number: int) -> bytes:
    """A PTX text with what is looked at: the target, and something that no other has."""
    suffix = "a" if record["arch"] >= 90 else ""
    return (
        f"// kernel {number}\n.version 8.5\n.target sm_{record['arch']}{suffix}\n.address_size 64\n"
        f".visible .entry {record['entry']}()\n{{\n  ret;\n}}\n"
    ).encode()


def cubin_of(number: int) -> bytes:
    """A 64-bit ELF file of a header, a payload and one section header."""
    payload = struct.pack("<Q", number)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 190, 1, 0, 0, 64 + len(payload), 0, 64, 0, 0, 64, 1, 0
    )
    return header + payload + bytes(64)


def write_kernels(folder: Path, kernels: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Write a folder as ``make kernels`` does; gives the manifest."""
    records = []
    for number, record in enumerate(all_kernels() if kernels is None else kernels):
        files = {}
        for kind, content in (("ptx", ptx_of(record, number)), ("cubin", cubin_of(number))):
            name = f"sm_{record['arch']}/{record['entry']}.{number}.{kind}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            files[kind] = {"file": name, "sha256": hashlib.sha256(content).hexdigest()}
        records.append({**record, **files})
    manifest = {"format_version": 1, "triton": "3.9.0", "source_sha256": "0" * 64, "kernels": records}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return manifest


def signatures(folder: Path, manifest: dict[str, Any]) -> str:
    """What the stand-in driver must know of every image, one a line."""
    lines = []
    for record in manifest["kernels"]:
        words = [f"{a['name']}:{a['kind']}:{a.get('dtype') or 'int32'}" for a in record["arguments"]]
        constants = KERNEL_RECORDS[record["op"]].constants
        arguments = " ".join([*words, *(f"{name}:constant:{value}" for name, value in constants.items())])
        for kind in ("cubin", "ptx"):
            path = folder / record[kind]["file"]
            later = int(kind == "ptx" and f".target sm_{record['arch']}\n".encode() in path.read_bytes())
            words = (record["arch"], kind, later, path, record["op"], record["entry"])
            lines.append(f"{' '.join(map(str, words))} {record['threads']} {record['shared_bytes']} {arguments}")
    return "\n".join(lines) + "\n"


def chosen(
    manifest: dict[str, Any],
    op: str,
    arch: int,
    dtype: str,
    sizes: dict[str, int],
    weights: str = "",
    activations: str = "",
) -> dict[str, Any]:
    """The first kernel of an architecture that suits, by the manifest's own rule."""
    wanted = {("int32",) * 3, (dtype, weights or dtype, activations or dtype)}
    for record in manifest["kernels"]:
        if (record["op"], record["arch"]) == (op, arch) and (
            (record["dtype"], record["weights"], record["activations"]) in wanted
            and all(sizes[name] % number == 0 for name, number in record["requires"].items())
            and all(sizes[name] >= number for name, number in record["at_least"].items())
        ):
            return dict(record)
    raise LookupError(f"no kernel of {op} for sm_{arch} in {dtype} with {sizes}")


def grid_of(record: dict[str, Any], sizes: dict[str, int]) -> list[int]:
    """The grid's three extents."""
    extents = []
    for factors in record["grid"]:
        extent = 1
        for factor in factors:
            extent *= -(-sizes[factor["size"]] // factor["per"])
        extents.append(extent)
    return extents
