"""From ONNX text to the function that travels in a file as an op's portable body."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adaptrt.ops.record import DOMAIN, ONNX_OPSET

if TYPE_CHECKING:
    import onnx


def parse_body(op: str, inputs: str, outputs: str, text: str, doc: str) -> onnx.FunctionProto:
    """Parse the body of an op.

    Args:
        op: Name of the op.
        inputs: Its inputs, comma-separated, in order.
        outputs: Its outputs, likewise.
        text: One assignment a line, in ONNX's text form.
        doc: What the body does, in a line.
    """
    # Kernels and the plugins' tables are made from the records on machines that have no onnx.
    import onnx.parser

    header = f'<domain: "{DOMAIN}", opset_import: ["" : {ONNX_OPSET}]>\n{op} ({inputs}) => ({outputs})\n'
    function = onnx.parser.parse_function(header + "{" + text + "}")
    function.doc_string = doc
    return function
