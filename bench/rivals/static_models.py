"""Static models that need no training beside a bundle: its dense model in every precision here, and uniform widths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from adaptrt import AdaptrtError
from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.uniform_width import learners_of, with_uniform_width
from adaptrt.bench.timing.engine_choice import EngineChoice
from adaptrt.bench.timing.session_process import BundleProcess, SessionProcess
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.targets.activation_ranges import ActivationRange, Probe
from adaptrt.export.targets.inline import inlined
from adaptrt.export.targets.int8 import byte_products, byte_tensors, to_int8
from adaptrt.export.targets.int8_scales import even_scales, fixed_scales
from adaptrt.export.targets.qdq import to_qdq
from adaptrt.export.targets.source import read_stages
from adaptrt.ops.int8 import REDUCED
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import Bundle

FLOAT32 = "dense float32"
INT8 = "dense int8, quantize_dynamic"
OUR_INT8 = "dense int8"

_AT_ONCE = 8  # samples
Feeds = Mapping[str, np.ndarray[Any, Any]]
Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class StaticModels:
    """Processes of static models.

    Attributes:
        processes: By what they are called, the dense model in float32 first.
        left_out: What could not be made, and why.
    """

    processes: dict[str, SessionProcess]
    left_out: list[str]


def open_static_models(
    folder: Path, bundle: Bundle, samples: Feeds, scratch: Path, threads: int, stack: ExitStack, tell: Tell
) -> StaticModels:
    """Make every static model that can be made, and start a process of each.

    Args:
        folder: Of the bundle.
        bundle: As read from there, with a dense model.
        samples: Inputs that say the scales of int8, by name.
        scratch: Where graphs are written.
        threads: Threads that one operator may use.
        stack: Ends the processes.
        tell: Told what is being made.

    Raises:
        BenchError: The bundle has no dense model, or its float32 does not run.
    """
    if bundle.dense.file is None:
        raise BenchError(f"got {folder} without its dense model, expected one to compare with; export it again")
    dense = folder / bundle.dense.file
    made = StaticModels({FLOAT32: stack.enter_context(SessionProcess(dense, threads=threads))}, [])

    def attempt(name: str, start: Callable[[], SessionProcess]) -> None:
        tell(f"making {name}", 0.0)
        try:
            made.processes[name] = stack.enter_context(start())
        except AdaptrtError as error:
            made.left_out.append(f"{name}: {error}")

    def session(file: Path) -> SessionProcess:
        return SessionProcess(file, threads=threads)

    attempt(INT8, lambda: session(quantized(dense, scratch / "dynamic.onnx")))
    attempt(OUR_INT8, lambda: session(in_int8(onnx.load(str(dense)), _batches(samples), scratch / "dense_int8.onnx")))
    for engine, record in BACKENDS.items():
        if not (record.dense and record.on_host and engine != DEFAULT_BACKEND and record.installed):
            continue
        for precision in record.precisions:
            if precision == "fp16":  # no CPU computes in it
                continue
            name, start = f"dense {record.title} {precision}", partial(BundleProcess, folder, threads=threads)
            if precision != "int8":
                attempt(name, partial(start, choice=EngineChoice(engine, precision), dense=True))
                continue
            of_pairs = partial(start, choice=EngineChoice(engine, "int8"))
            attempt(name, partial(_opened_pairs, dense, samples, scratch / f"{engine}_int8.onnx", of_pairs))
    try:
        stages = read_stages(folder, bundle)
        learners = learners_of(stages)
    except AdaptrtError as error:
        made.left_out.append(f"uniform width: {error}")
        return made
    for number in range(1, learners):
        name = f"uniform width {number}/{learners}"
        file = scratch / f"uniform{number}.onnx"
        try:
            graph = with_uniform_width(bundle, stages, number)
        except AdaptrtError as error:
            made.left_out.append(f"{name}: {error}")
            continue
        attempt(name, partial(_saved, graph, file, session))
        attempt(
            f"{name} int8", partial(_opened_in_int8, graph, samples, scratch / f"uniform{number}_int8.onnx", session)
        )
    return made


def _saved(graph: onnx.ModelProto, file: Path, session: Callable[[Path], SessionProcess]) -> SessionProcess:
    save_graph(graph, file)
    return session(file)


def _opened_in_int8(
    graph: onnx.ModelProto, samples: Feeds, file: Path, session: Callable[[Path], SessionProcess]
) -> SessionProcess:
    return session(in_int8(graph, _batches(samples), file))


def _opened_pairs(dense: Path, samples: Feeds, file: Path, start: Callable[..., SessionProcess]) -> SessionProcess:
    """The dense model in int8 as engines read it that fuse pairs, on such an engine."""
    flat = inlined(onnx.load(str(dense)))
    readers = _read_by_heads(flat)
    save_graph(to_qdq(flat, even_scales(_measured(flat, readers, _batches(samples))), REDUCED, readers), file)
    return start(dense=file)


def in_int8(graph: onnx.ModelProto, batches: Iterable[Feeds], file: Path) -> Path:
    """A graph in int8 as a bundle's are, its scales fixed by some batches.

    Raises:
        ExportError: Nothing of it can be in int8.
    """
    flat = inlined(graph)
    readers = _read_by_heads(flat)
    by = fixed_scales(_measured(flat, readers, batches), byte_products(flat, readers), REDUCED)
    save_graph(to_int8(flat, REDUCED, readers, fixed=by.scales, factors=by.factors), file)
    return file


def _read_by_heads(flat: onnx.ModelProto) -> set[str]:
    """What the products read that give the graph's outputs; these stay in float32."""
    outputs = {value.name for value in flat.graph.output}
    products = [node for node in flat.graph.node if node.op_type in ("Gemm", "MatMul")]
    return {node.input[0] for node in products if outputs & {*node.output}}


def _batches(samples: Feeds) -> Iterator[Feeds]:
    """Samples, some at once."""
    for start in range(0, len(next(iter(samples.values()))), _AT_ONCE):
        yield {name: array[start : start + _AT_ONCE] for name, array in samples.items()}


def _measured(flat: onnx.ModelProto, left: Collection[str], batches: Iterable[Feeds]) -> dict[str, ActivationRange]:
    probe = Probe(flat, byte_tensors(flat, left))
    known = {node.name for node in probe.get_inputs()}
    for batch in batches:
        probe.run([], {name: array for name, array in batch.items() if name in known})
    return probe.ranges


def quantized(graph: Path, output: Path) -> Path:
    """The dense graph in int8, as the one line that a user would write makes it.

    Raises:
        BenchError: ONNX Runtime cannot.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preparation that graphs like these do not need
    try:
        quantize_dynamic(graph, output, per_channel=True, weight_type=QuantType.QInt8)
    except Exception as error:  # it fails in many ways, onnx's among them
        said = str(error).strip().splitlines()
        raise BenchError(f"quantize_dynamic cannot read the dense graph: {said[0] if said else error!r}") from error
    finally:
        root.setLevel(level)
    return output
