"""Bodies as they are parsed: those of files already written stay, and records are read where there is no onnx."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, inliner

from adaptrt.ops import RECORDS, OpRecord
from tests.ops.implementations import assert_close, graph_of

ROOT = Path(__file__).resolve().parents[2]

# Of the files that users have: a change here makes their graphs and ours differ.
WRITTEN = {
    ("ConditionalMLP", 1): "90c9216736d21e0c",
    ("ConditionalMLP", 4): "536f17b104be2dd7",
    ("ConditionalLinear", 1): "4b8c32f8fbf7f183",
    ("ConditionalLinear", 4): "99373bfa4f42bbe6",
    ("SelectTokens", "any"): "995e575297e56142",
    ("SelectTokens", "none"): "1b878dab3e9acbca",
    ("SegmentReduce", "sum"): "48abeb48d05e1ac2",
    ("SegmentReduce", "mean"): "32899d437775cd86",
    ("SegmentReduce", "last"): "9b7c6e2e1f090545",
}


def fingerprint(function: onnx.FunctionProto) -> str:
    """Of all nodes in order: operators, names and attributes."""
    digest = hashlib.sha256()
    digest.update(repr((function.name, list(function.input), list(function.output))).encode())
    for node in function.node:
        attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
        digest.update(repr((node.op_type, list(node.input), list(node.output), attributes)).encode())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize(("op", "argument"), WRITTEN, ids=str)
def test_bodies_stay_node_for_node(op: str, argument: int | str) -> None:
    assert fingerprint(RECORDS[op].body(argument)) == WRITTEN[op, argument]


def test_a_fingerprint_tells_bodies_apart() -> None:
    bodies = [RECORDS[op].body(argument) for op, argument in WRITTEN]
    bodies += [record.body(4) for record in RECORDS.values() if len(record.parts) > 1]
    assert len({fingerprint(body) for body in bodies}) == len(bodies) - 1  # ConditionalMLP with 4 learners twice


def test_records_and_kernels_are_read_without_onnx() -> None:
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'onnx', 'torch', 'triton'}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from adaptrt.plugins_trt.op_table import table_text
from adaptrt.ops import RECORDS
print(len(table_text(RECORDS)) > 1000)
"""
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "True", done.stderr


LEARNERS = [record for record in RECORDS.values() if "N" in record.static_axes]


def with_constant_weights(record: OpRecord, dtype: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """One node, inlined, its weights initializers, as exports have it; and the inputs that are left."""
    inputs = record.make_inputs(record.cases[0], np.random.default_rng(0), dtype)
    model = inliner.inline_local_functions(graph_of(record, inputs))
    weights = {name: array for name, array in inputs.items() if name not in ("x", "k")}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    domains = [entry for entry in model.opset_import if not entry.domain]
    del model.opset_import[:]
    model.opset_import.extend(domains or [helper.make_opsetid("", 20)])
    return model, inputs


@pytest.mark.parametrize("record", LEARNERS, ids=lambda record: record.name)
def test_openvino_computes_the_bodies(record: OpRecord) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed: install adaptrt[openvino]")
    model, inputs = with_constant_weights(record, "float32")
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    got = compiled({"x": inputs["x"], "k": inputs["k"]})[0]
    assert_close(record, (np.asarray(got),), record.expected(inputs), "float32")


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None,
    reason="TensorRT-RTX is not installed: adaptrt[tensorrt-rtx]",
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("record", LEARNERS, ids=lambda record: record.name)
def test_tensorrts_parser_takes_the_bodies(record: OpRecord, dtype: str) -> None:
    import tensorrt_rtx_bindings as trt

    model, _ = with_constant_weights(record, dtype)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # the parser does not keep it alive
    parser = trt.OnnxParser(network, logger)
    said = (
        []
        if parser.parse(model.SerializeToString())
        else [parser.get_error(n).desc() for n in range(parser.num_errors)]
    )
    assert not said and network.num_outputs == 1
