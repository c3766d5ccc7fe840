"""The contract of each data-dependent operation: record, numpy reference, portable ONNX body, parts for kernels."""

from adaptrt.ops.activations import ACTIVATIONS, Activation
from adaptrt.ops.conditional_glu import CONDITIONAL_GLUS
from adaptrt.ops.conditional_linear import CONDITIONAL_LINEAR
from adaptrt.ops.conditional_mlp import CONDITIONAL_MLP, CONDITIONAL_MLPS
from adaptrt.ops.int8_forms import FORMS, Int8Form, int8_records
from adaptrt.ops.record import DOMAIN, OPSET_VERSION, Case, Field, OpRecord, Part, PartAttribute, Tolerance
from adaptrt.ops.segment_reduce import SEGMENT_REDUCE
from adaptrt.ops.select_tokens import SELECT_TOKENS

RECORDS: dict[str, OpRecord] = {
    record.name: record
    for record in (*CONDITIONAL_MLPS, *CONDITIONAL_GLUS, CONDITIONAL_LINEAR, SELECT_TOKENS, SEGMENT_REDUCE)
}
"""Every op of the ``adaptrt`` domain, by name."""

INT8_RECORDS: dict[str, OpRecord] = int8_records(RECORDS.values())
"""The int8 forms of these ops, by name: what prepared graphs leave to plugins. No exported graph has them."""

__all__ = [
    "ACTIVATIONS",
    "CONDITIONAL_GLUS",
    "CONDITIONAL_LINEAR",
    "CONDITIONAL_MLP",
    "CONDITIONAL_MLPS",
    "DOMAIN",
    "FORMS",
    "INT8_RECORDS",
    "OPSET_VERSION",
    "RECORDS",
    "SEGMENT_REDUCE",
    "SELECT_TOKENS",
    "Activation",
    "Case",
    "Field",
    "Int8Form",
    "OpRecord",
    "Part",
    "PartAttribute",
    "Tolerance",
]
