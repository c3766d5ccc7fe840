"""The contract of each data-dependent operation: record, numpy reference, portable ONNX body."""

from adaptrt.ops.conditional_linear import CONDITIONAL_LINEAR
from adaptrt.ops.conditional_mlp import CONDITIONAL_MLP
from adaptrt.ops.record import DOMAIN, OPSET_VERSION, Case, Field, OpRecord, Tolerance

RECORDS: dict[str, OpRecord] = {record.name: record for record in (CONDITIONAL_MLP, CONDITIONAL_LINEAR)}
"""Every op of the ``adaptrt`` domain, by name."""

__all__ = [
    "CONDITIONAL_LINEAR",
    "CONDITIONAL_MLP",
    "DOMAIN",
    "OPSET_VERSION",
    "RECORDS",
    "Case",
    "Field",
    "OpRecord",
    "Tolerance",
]
