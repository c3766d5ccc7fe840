"""The contract of each data-dependent operation: record, numpy reference, portable ONNX body, parts for kernels."""

from adaptrt.ops.activations import ACTIVATIONS, Activation
from adaptrt.ops.conditional_glu import CONDITIONAL_GLUS
from adaptrt.ops.conditional_linear import CONDITIONAL_LINEAR
from adaptrt.ops.conditional_mlp import CONDITIONAL_MLP, CONDITIONAL_MLPS
from adaptrt.ops.record import DOMAIN, OPSET_VERSION, Case, Field, OpRecord, Part, PartAttribute, Tolerance
from adaptrt.ops.segment_reduce import SEGMENT_REDUCE
from adaptrt.ops.select_tokens import SELECT_TOKENS

RECORDS: dict[str, OpRecord] = {
    record.name: record
    for record in (*CONDITIONAL_MLPS, *CONDITIONAL_GLUS, CONDITIONAL_LINEAR, SELECT_TOKENS, SEGMENT_REDUCE)
}
"""Every op of the ``adaptrt`` domain, by name."""

__all__ = [
    "ACTIVATIONS",
    "CONDITIONAL_GLUS",
    "CONDITIONAL_LINEAR",
    "CONDITIONAL_MLP",
    "CONDITIONAL_MLPS",
    "DOMAIN",
    "OPSET_VERSION",
    "RECORDS",
    "SEGMENT_REDUCE",
    "SELECT_TOKENS",
    "Activation",
    "Case",
    "Field",
    "OpRecord",
    "Part",
    "PartAttribute",
    "Tolerance",
]
