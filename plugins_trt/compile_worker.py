"""Compiles kernels to PTX and cubin in a process of its own; started by ``compile.py``.

A process of its own, because Triton decides at import whether kernels are interpreted, and because two
compile twice as fast as one. Reads one job per line of standard input as JSON, writes one answer per line
of standard output: either what was compiled or ``{"error": "one line"}``.

No GPU is needed: Triton brings LLVM and NVIDIA's assemblers.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import (
    ACTIVATIONS,
    ALIGNMENT,
    KERNEL_RECORDS,
    SIZE,
    VALUES,
    WEIGHTS,
    KernelRecord,
)

PTX_VERSIONS = {80: 85, 86: 85, 87: 85, 89: 85, 90: 85, 100: 86, 103: 88, 110: 90, 120: 87, 121: 88}
"""The oldest PTX that has what each architecture needs, so that drivers of its time take it: 85 is CUDA
12.5, one before JetPack 6's; 90 is CUDA 13.0, JetPack 7's."""

_NEW_ASSEMBLER = (110,)  # architectures that Triton's other assembler, of CUDA 12.9, does not know
_POINTERS = {
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32",
    "int8": "*i8",
    "int32": "*i32",
    "int64": "*i64",
    "bool": "*i1",
}
_SCRATCH = 2  # pointers that Triton appends to an entry's parameters
_ENTRY = re.compile(r"\.visible \.entry (\w+)\(\n(.*?)\n\)", re.DOTALL)


@dataclass(frozen=True)
class Job:
    """What to compile.

    Attributes:
        op: Name of the op, a key of ``KERNEL_RECORDS``.
        arch: Compute capability, 87 for 8.7.
        dtype: Of the op's numbers; "int32" where it has none.
        weights: Of the op's weights: ``dtype`` or "int8".
        activations: Of what its products read: ``dtype``, or "int8" beside int8 weights.
        aligned: Whether the record's aligned sizes and all pointers are multiples of 16.
        blocks: The kernel's constants.
        warps: Warps of a CTA.
        stages: Pipeline depth.
    """

    op: str
    arch: int
    dtype: str
    weights: str
    activations: str
    aligned: bool
    blocks: Mapping[str, int]
    warps: int
    stages: int


def compile_job(job: Job) -> dict[str, Any]:
    """Compile one kernel.

    Returns:
        ``ptx`` (text), ``cubin`` (base64), ``threads``, ``shared_bytes``, ``registers``, ``spill_bytes``.

    Raises:
        KernelError: Triton or the assembler refuses it, or it needs scratch memory.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    record = KERNEL_RECORDS[job.op]
    function = record.function()
    if not isinstance(function, triton.JITFunction):
        raise KernelError("kernels were imported for the interpreter, expected TRITON_INTERPRET unset; report this")
    signature, constants, attributes = _specialise(record, job)
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    options = {
        "num_warps": job.warps,
        "num_stages": job.stages,
        "ptx_version": PTX_VERSIONS[job.arch],
        "enable_fp_fusion": True,
    }
    compiled = triton.compile(source, target=GPUTarget("cuda", job.arch, 32), options=options)
    metadata = compiled.metadata
    for name in ("global_scratch_size", "profile_scratch_size"):
        if getattr(metadata, name, 0):
            raise KernelError(f"{record.entry} for sm_{job.arch} needs {name}, expected none; change the kernel")
    ptx = cut_scratch(compiled.asm["ptx"], len(record.arguments_of(job.weights, job.activations)))
    cubin, registers, spilled = assemble(ptx, job.arch)
    return {
        "ptx": ptx,
        "cubin": base64.b64encode(cubin).decode(),
        "threads": 32 * metadata.num_warps,
        "shared_bytes": metadata.shared,
        "registers": registers,
        "spill_bytes": spilled,
    }


def _specialise(
    record: KernelRecord, job: Job
) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int, ...], list[list[Any]]]]:
    """Signature, constants and divisibility of a kernel as Triton takes them."""
    kept = record.arguments_of(job.weights, job.activations)
    dtypes = {VALUES: job.dtype, WEIGHTS: job.weights, ACTIVATIONS: job.activations}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for place, argument in enumerate(record.arguments):
        if argument not in kept:
            signature[argument.name], constants[argument.name] = "constexpr", None
            continue
        if argument.kind == SIZE or argument.dtype is None:
            signature[argument.name] = "i32"
        else:
            signature[argument.name] = _POINTERS[dtypes.get(argument.dtype, argument.dtype)]
        if job.aligned and (argument.kind != SIZE or argument.name in record.aligned):
            attributes[(place,)] = [["tt.divisibility", ALIGNMENT]]
    for name in record.blocks:
        signature[name], constants[name] = "constexpr", job.blocks[name]
    for name, constant in record.constants.items():
        signature[name], constants[name] = "constexpr", constant
    return signature, constants, attributes


def cut_scratch(ptx: str, arguments: int) -> str:
    """Cut the scratch pointers, which nobody passes, from the entry's parameters.

    Args:
        ptx: With ``arguments`` parameters and the two that Triton appends.
        arguments: Parameters to leave.

    Raises:
        KernelError: There is not one entry, it has another number of parameters, or one of the two is used.
    """
    entries = list(_ENTRY.finditer(ptx))
    if len(entries) != 1:
        raise KernelError(f"got PTX with {len(entries)} entries, expected one; this version of Triton is unknown")
    parameters = entries[0][2].split(",\n")
    if len(parameters) != arguments + _SCRATCH:
        raise KernelError(
            f"{entries[0][1]} has {len(parameters)} parameters in PTX, expected {arguments} and {_SCRATCH} for "
            "scratch memory; this version of Triton is unknown"
        )
    for parameter in parameters[arguments:]:
        name = parameter.split()[-1]
        if len(re.findall(rf"\b{re.escape(name)}\b", ptx)) != 1:
            raise KernelError(f"{entries[0][1]} uses its scratch memory {name}, expected it unused; change the kernel")
    begin, end = entries[0].span(2)
    return ptx[:begin] + ",\n".join(parameters[:arguments]) + ptx[end:]


def entry_parameters(ptx: str) -> tuple[str, list[str]]:
    """The name of a PTX's entry and the types of its parameters, such as "u64"."""
    entry = _ENTRY.search(ptx)
    if entry is None:
        raise KernelError("got PTX without an entry; compile the kernels again")
    return entry[1], [re.split(r"\s+", parameter.strip())[1].lstrip(".") for parameter in entry[2].split(",\n")]


def assemble(ptx: str, arch: int) -> tuple[bytes, int, int]:
    """Assemble PTX.

    Returns:
        The cubin, registers per thread, and bytes per thread that did not fit in registers.

    Raises:
        KernelError: The assembler refuses it.
    """
    from triton import knobs

    tools = knobs.nvidia
    tool = tools.ptxas_blackwell if arch in _NEW_ASSEMBLER else tools.ptxas
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx)
        name = f"sm_{arch}a" if arch >= 90 else f"sm_{arch}"
        command = [tool.path, "-v", f"--gpu-name={name}", source.name, "-o", target.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KernelError(f"the assembler refused a kernel for {name}: {' '.join(done.stderr.split())[:300]}")
        registers = re.search(r"Used (\d+) registers", done.stderr)
        spilled = re.search(r"(\d+) bytes spill stores", done.stderr)
        if registers is None or spilled is None:
            raise KernelError("the assembler did not say how many registers it used; this version is unknown")
        return target.read_bytes(), int(registers[1]), int(spilled[1])


def main() -> None:
    """Answer jobs until standard input ends."""
    # What a compiler prints must not stand between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        try:
            answer = compile_job(Job(**json.loads(line)))
        except Exception as error:  # whatever Triton raises is for the process that asked to report
            answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
