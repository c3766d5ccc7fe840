"""Ahead-of-time compilation of the kernels: PTX, cubin and a manifest, with no GPU.

``python -m adaptrt.plugins_trt.compile --arch 87 90 --output build/kernels``, or ``make kernels ARCH="87 90"``.
The same sources and the same Triton give the same bytes, wherever they lie. Nothing is written before
everything has been compiled; what was compiled before an interruption is kept in ``.cache`` beside it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptrt import write_atomically
from adaptrt.ops import RECORDS
from adaptrt.plugins_trt.compile_worker import Job
from adaptrt.plugins_trt.errors import KernelError
from adaptrt.plugins_trt.kernel_records import (
    ACTIVATIONS,
    ALIGNMENT,
    DTYPES,
    KERNEL_RECORDS,
    QUANTISED,
    SIZE,
    VALUES,
    WEIGHTS,
    KernelRecord,
)
from adaptrt.plugins_trt.kernels.configurations import Configuration, family_of
from adaptrt.plugins_trt.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, read_manifest
from adaptrt.plugins_trt.op_table import table_text

ARCHITECTURES = (87, 90, 100, 110, 120)
"""What ``make kernels`` compiles for: Orin, Hopper, Blackwell in data centres, Thor, Blackwell elsewhere."""

CACHE = ".cache"
_SOURCES = ("kernels/*.py", "kernel_records.py", "compile.py", "compile_worker.py")
_INTERRUPTED = 130  # what shells report for Ctrl-C

Answer = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One kernel of the manifest: what to compile, and what a launcher must know of it."""

    job: Job
    name: str
    configuration: Configuration

    @property
    def stem(self) -> str:
        """Path of its files without their suffix."""
        job = self.job
        weights = [job.weights] if job.weights != job.dtype else []
        activations = [f"{job.activations}_activations"] if job.activations != job.dtype else []
        return f"sm_{job.arch}/" + ".".join([job.op, job.dtype, *weights, *activations, self.name])


def variants(
    architectures: Sequence[int], dtypes: Sequence[str] = DTYPES, ops: Sequence[str] = tuple(KERNEL_RECORDS)
) -> list[Variant]:
    """Give every kernel to compile, those of one op, architecture and dtype from most special to most general.

    Raises:
        KernelError: An architecture, dtype or op is unknown, or there is none.
    """
    for kind, got, known in (("dtype", dtypes, DTYPES), ("op", ops, tuple(KERNEL_RECORDS))):
        unknown = [name for name in got if name not in known]
        if unknown or not got:
            raise KernelError(f"got {kind} {', '.join(unknown) or 'none'}, expected some of {', '.join(known)}")
    if not architectures:
        raise KernelError(f"got no architecture, expected some of {', '.join(map(str, ARCHITECTURES))}")
    variants = []
    for arch in dict.fromkeys(architectures):
        family_of(arch)
        for op in ops:
            record = KERNEL_RECORDS[op]
            for dtype, weights, activations in _kinds(record, dtypes):
                for aligned in (True, False) if record.aligned else (False,):
                    for choice in record.configurations(arch, dtype, weights, activations, aligned=aligned):
                        dtypes_of_job = dtype, weights, activations
                        blocks = dict(choice.blocks)
                        job = Job(op, arch, *dtypes_of_job, aligned, blocks, choice.warps, choice.stages)
                        base = f"aligned{ALIGNMENT}" if aligned else "any"
                        variants.append(Variant(job, f"{base}-{choice.name}" if choice.at_least else base, choice))
    return variants


def _kinds(record: KernelRecord, dtypes: Sequence[str]) -> list[tuple[str, str, str]]:
    """Dtypes of numbers, weights and activations that a kernel is compiled in."""
    if not record.has_values:
        return [("int32", "int32", "int32")]
    narrow = [dtype for dtype in dtypes if dtype != "float32"]
    return [
        *((dtype, dtype, dtype) for dtype in dtypes),
        *((dtype, QUANTISED, dtype) for dtype in narrow if record.has_weights),
        *((dtype, QUANTISED, QUANTISED) for dtype in narrow if record.has_activations),
    ]


def compile_kernels(
    folder: Path,
    architectures: Sequence[int],
    dtypes: Sequence[str] = DTYPES,
    ops: Sequence[str] = tuple(KERNEL_RECORDS),
    *,
    workers: int | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Compile kernels into a folder and write its manifest, which names these and no others.

    Works in processes of its own, so it does not matter whether this one runs kernels in the interpreter.

    Args:
        folder: Made if missing; kernels of earlier compilations are removed from it.
        architectures: Compute capabilities, 87 for 8.7.
        dtypes: Of the ops' numbers.
        ops: Names of ops or parts.
        workers: Processes at work; None takes one per core.
        on_done: Called with the number of kernels that are ready and that of all.

    Raises:
        KernelError: Something asked for is unknown, Triton is missing or refuses a kernel, or the folder
            cannot be written; what was there before is then untouched.
    """
    wanted = variants(architectures, dtypes, ops)
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        raise KernelError("got no Triton, which compiles the kernels; pip install 'adaptrt[kernels]'") from None
    source = source_hash()
    try:
        cache = folder / CACHE
        cache.mkdir(parents=True, exist_ok=True)
        answers = _compile_all(wanted, cache, f"{source} {version}", workers or os.cpu_count() or 1, on_done)
        _write(folder, wanted, answers, version, source)
    except OSError as error:
        raise KernelError(f"cannot write {folder} ({error.strerror or error}); name another folder") from error
    return read_manifest(folder)


def source_hash() -> str:
    """SHA-256 in hex over what the kernels are made from, wherever it lies."""
    room = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in room.glob(pattern)):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(room).as_posix()} {len(content)}\n".encode() + content)
    # What the kernels take is in the ops' records.
    digest.update(table_text(RECORDS).encode())
    return digest.hexdigest()


def _compile_all(
    wanted: Sequence[Variant], cache: Path, made_by: str, workers: int, on_done: Callable[[int, int], None] | None
) -> dict[str, Answer]:
    """The answers by stem, from the cache where it has them."""
    files = {id(variant): cache / _cache_name(variant.job, made_by) for variant in wanted}
    for stale in set(cache.iterdir()) - set(files.values()):
        if not stale.name.startswith(_prefix(made_by)):
            stale.unlink()
    answers = {stem: answer for stem, answer in ((v.stem, _cached(files[id(v)])) for v in wanted) if answer}
    left = deque(variant for variant in wanted if variant.stem not in answers)
    printing = threading.Lock()

    def tell() -> None:
        with printing:
            if on_done is not None:
                on_done(len(answers), len(wanted))

    def work() -> None:
        with _worker() as ask:
            while True:
                try:
                    variant = left.popleft()
                except IndexError:
                    return
                answer = ask(variant.job)
                if "error" in answer:
                    left.clear()
                    raise KernelError(f"{variant.stem} did not compile: {answer['error']}")
                write_atomically(files[id(variant)], json.dumps(answer).encode())
                answers[variant.stem] = answer
                tell()

    tell()
    with ThreadPoolExecutor(max(1, min(workers, len(left)))) as pool:
        futures = [pool.submit(work) for _ in range(min(workers, len(left)))]
        try:
            for future in futures:
                future.result()
        finally:
            left.clear()
    return answers


@contextlib.contextmanager
def _worker() -> Iterator[Callable[[Job], Answer]]:
    """A process that compiles; gives the function that asks it."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TRITON_CACHE_DIR": folder,
            "TRITON_DISABLE_LINE_INFO": "1",  # lines hold the path of the sources
        }
        environment.pop("TRITON_INTERPRET", None)
        process = subprocess.Popen(
            [sys.executable, "-m", "adaptrt.plugins_trt.compile_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
        assert process.stdin is not None and process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def ask(job: Job) -> Answer:
            with contextlib.suppress(BrokenPipeError):
                requests.write(json.dumps(asdict(job)) + "\n")
                requests.flush()
            line = answers.readline()
            if not line:
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()
                return {"error": f"the compiler ended: {said[-1][:300] if said else 'it said nothing'}"}
            answer: Answer = json.loads(line)
            return answer

        try:
            yield ask
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):  # what it was not there to read
                requests.close()
            answers.close()


def _prefix(made_by: str) -> str:
    return hashlib.sha256(made_by.encode()).hexdigest()[:16]


def _cache_name(job: Job, made_by: str) -> str:
    text = json.dumps(asdict(job), sort_keys=True)
    return f"{_prefix(made_by)}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _cached(path: Path) -> Answer | None:
    try:
        answer = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return answer if isinstance(answer, dict) and "ptx" in answer else None


def _write(folder: Path, wanted: Sequence[Variant], answers: dict[str, Answer], version: str, source: str) -> None:
    """Write images and, last, the manifest: between the old and the new one there is none."""
    entries, files = [], {}
    for variant in wanted:
        answer = answers[variant.stem]
        images = {"ptx": answer["ptx"].encode(), "cubin": base64.b64decode(answer["cubin"])}
        files.update({f"{variant.stem}.{kind}": content for kind, content in images.items()})
        entries.append(_entry(variant, answer, {kind: _sha256(content) for kind, content in images.items()}))
    manifest = {"format_version": FORMAT_VERSION, "triton": version, "source_sha256": source, "kernels": entries}
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)
    for kind in ("ptx", "cubin"):
        for stale in folder.glob(f"sm_*/*.{kind}"):
            if stale.relative_to(folder).as_posix() not in files:
                stale.unlink()
    write_atomically(folder / MANIFEST_FILE, (json.dumps(manifest, indent=1) + "\n").encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _entry(variant: Variant, answer: Answer, hashes: dict[str, str]) -> dict[str, Any]:
    """The manifest's entry of one kernel."""
    job, record = variant.job, KERNEL_RECORDS[variant.job.op]
    dtypes = {VALUES: job.dtype, WEIGHTS: job.weights, ACTIVATIONS: job.activations}
    arguments = []
    for argument in record.arguments_of(job.weights, job.activations):
        entry = {"name": argument.name, "kind": argument.kind}
        if argument.kind != SIZE and argument.dtype is not None:
            entry["dtype"] = dtypes.get(argument.dtype, argument.dtype)
        arguments.append(entry)
    return {
        "op": job.op,
        "version": record.version,
        "variant": variant.name,
        "arch": job.arch,
        "dtype": job.dtype,
        "weights": job.weights,
        "activations": job.activations,
        "entry": record.entry,
        **{kind: {"file": f"{variant.stem}.{kind}", "sha256": digest} for kind, digest in hashes.items()},
        **{name: answer[name] for name in ("threads", "shared_bytes", "registers", "spill_bytes")},
        "requires": dict.fromkeys(record.aligned, ALIGNMENT) if job.aligned else {},
        "at_least": dict(variant.configuration.at_least),
        "arguments": arguments,
        "grid": [
            [{"size": factor.size, "per": factor.blocked(job.blocks)} for factor in factors] for factors in record.grid
        ],
    }


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; in a log, the number of kernels before and after."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("kernels", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command: 0, or 2 after one line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m adaptrt.plugins_trt.compile", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--arch", nargs="+", default=[str(arch) for arch in ARCHITECTURES], help="such as 87 90")
    parser.add_argument("--output", type=Path, default=Path("build/kernels"), help="folder to write to")
    parser.add_argument("--dtype", nargs="+", default=list(DTYPES), help=", ".join(DTYPES))
    parser.add_argument("--op", nargs="+", default=list(KERNEL_RECORDS), help=", ".join(KERNEL_RECORDS))
    parser.add_argument("--workers", type=int, help="processes; one per core if not given")
    options = parser.parse_args(arguments)
    try:
        with _progress() as on_done:
            manifest = compile_kernels(
                options.output,
                [_arch(text) for text in options.arch],
                options.dtype,
                options.op,
                workers=options.workers,
                on_done=on_done,
            )
    except KernelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: no manifest was written; what was compiled is kept for the next time", file=sys.stderr)
        return _INTERRUPTED
    spilling = [kernel for kernel in manifest.kernels if kernel.spill_bytes]
    print(f"{len(manifest.kernels)} kernels in {options.output}; registers spilled to memory in {len(spilling)}")
    for kernel in spilling:
        print(f"  {kernel.ptx.file}: {kernel.spill_bytes} bytes per thread")
    return 0


def _arch(text: str) -> int:
    number = text.removeprefix("sm_")
    if not number.isdecimal():
        raise KernelError(f"got architecture {text!r}, expected a number such as 87 for compute capability 8.7")
    return int(number)


if __name__ == "__main__":
    sys.exit(main())
