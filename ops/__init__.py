"""The contract of each data-dependent operation: record, numpy reference, portable ONNX body."""

from adaptrt.ops.conditional_linear import CONDITIONAL_LINEAR
from adaptrt.ops.conditional_mlp import CONDITIONAL_MLP
from adaptrt.ops.record import DOMAIN, OPSET_VERSION, Case, Field, OpRecord, Tolerance
from adaptrt.ops.segment_reduce import SEGMENT_REDUCE
from adaptrt.ops.select_tokens import SELECT_TOKENS

RECORDS: dict[str, OpRecord] = {
    record.name: record for record in (CONDITIONAL_MLP, CONDITIONAL_LINEAR, SELECT_TOKENS, SEGMENT_REDUCE)
}
"""Every op of the ``adaptrt`` domain, by name."""

__all__ = [
    "CONDITIONAL_LINEAR",
    "CONDITIONAL_MLP",
    "DOMAIN",
    "OPSET_VERSION",
    "RECORDS",
    "SEGMENT_REDUCE",
    "SELECT_TOKENS",
    "Case",
    "Field",
    "OpRecord",
    "Tolerance",
]
