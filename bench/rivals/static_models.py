"""Static models that need no training beside a bundle: its dense model in every precision here, and uniform widths."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from adaptrt import AdaptrtError
from adaptrt.bench.errors import BenchError
from adaptrt.bench.rivals.series import DENSE, UNIFORM, Series
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

FLOAT32_FORM, DYNAMIC_FORM, INT8_FORM = "float32", "int8, quantize_dynamic", "int8"
FLOAT32 = f"{DENSE} {FLOAT32_FORM}"
INT8 = f"{DENSE} {DYNAMIC_FORM}"
OUR_INT8 = f"{DENSE} {INT8_FORM}"

_AT_ONCE = 8  # samples
Feeds = Mapping[str, np.ndarray[Any, Any]]
Tell = Callable[[str, float], None]


@dataclass
class StaticModels:
    """Static models beside a bundle, made one after the other, each in a process.

    Attributes:
        folder: Of the bundle.
        samples: Inputs that say the scales of int8, by name.
        scratch: Where graphs are written.
        threads: Threads that one operator may use.
        stack: Ends the processes.
        tell: Told what is being made.
        series: What was made, in this order.
        left_out: What could not be made, and why.
    """

    folder: Path
    samples: Feeds
    scratch: Path
    threads: int
    stack: ExitStack
    tell: Tell
    series: list[Series] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def attempt(
        self, name: str, network: str, form: str, start: Callable[[], SessionProcess], work: float | None = None
    ) -> None:
        """Start the process of a plain graph; what fails is left out."""
        self.tell(f"making {name}", 0.0)
        try:
            process = self.stack.enter_context(start())
        except AdaptrtError as error:
            self.left_out.append(f"{name}: {error}")
            return
        self.series.append(Series(name, network, form, process, work=work))

    def session(self, file: Path) -> SessionProcess:
        """A process that runs an ONNX file."""
        return SessionProcess(file, threads=self.threads)

    def add_dense(self, network: str, file: Path, work: float | None = None) -> None:
        """A dense graph in every precision that is here.

        Args:
            network: What it is called.
            file: The graph in float32, with the bundle's inputs and outputs.
            work: Its share of the bundle's dense work, where that is to be told.

        Raises:
            BenchError: It does not run in float32.
        """
        made = partial(self._made_dense, network)
        name = f"{network} {FLOAT32_FORM}"
        self.tell(f"making {name}", 0.0)
        process = self.stack.enter_context(self.session(file))
        self.series.append(Series(name, network, FLOAT32_FORM, process, work=work))
        stem = f"{network.replace('/', '_')}_{len(self.series)}"
        made(DYNAMIC_FORM, lambda: self.session(quantized(file, self.scratch / f"{stem}_dynamic.onnx")), work)
        in_bytes = self.scratch / f"{stem}_int8.onnx"
        made(INT8_FORM, lambda: self.session(in_int8(onnx.load(str(file)), _batches(self.samples), in_bytes)), work)
        for engine, record in BACKENDS.items():
            if not (record.dense and record.on_host and engine != DEFAULT_BACKEND and record.installed):
                continue
            for precision in record.precisions:
                if precision == "fp16":  # no CPU computes in it
                    continue
                choice = EngineChoice(engine, precision)
                start = partial(BundleProcess, self.folder, threads=self.threads, choice=choice)
                if precision == "int8":
                    pairs = self.scratch / f"{stem}_{engine}.onnx"
                    made(f"{record.title} {precision}", partial(_opened_pairs, file, self.samples, pairs, start), work)
                else:
                    made(f"{record.title} {precision}", partial(start, dense=file), work)

    def _made_dense(self, network: str, form: str, start: Callable[[], SessionProcess], work: float | None) -> None:
        self.attempt(f"{network} {form}", network, form, start, work)

    def add_uniform_widths(self, bundle: Bundle) -> None:
        """The bundle's own weights with the same number of learners for every token, in float32 and int8."""
        try:
            stages = read_stages(self.folder, bundle)
            learners = learners_of(stages)
        except AdaptrtError as error:
            self.left_out.append(f"{UNIFORM}: {error}")
            return
        for number in range(1, learners):
            name = f"{UNIFORM} {number}/{learners}"
            file, in_bytes = self.scratch / f"uniform{number}.onnx", self.scratch / f"uniform{number}_int8.onnx"
            try:
                graph = with_uniform_width(bundle, stages, number)
            except AdaptrtError as error:
                self.left_out.append(f"{name}: {error}")
                continue
            self.attempt(name, UNIFORM, FLOAT32_FORM, partial(_saved, graph, file, self.session))
            start = partial(_opened_in_int8, graph, self.samples, in_bytes, self.session)
            self.attempt(f"{name} int8", UNIFORM, INT8_FORM, start)


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
    tensors = byte_tensors(flat, left)
    if not tensors:  # products too small for int8: whoever makes the graph says so
        return {}
    probe = Probe(flat, tensors)
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
