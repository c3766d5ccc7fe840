"""``config.pbtxt`` of a model in Triton's repository, in protobuf's text format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptrt.export.errors import ExportError
from adaptrt.export.targets.repository import MARK
from adaptrt.runtime.bundle.schema import TensorSpec
from adaptrt.runtime.serving.tensors import datatype

_INDENT = "  "


@dataclass(frozen=True)
class TritonTensor:
    """An input or output of a model.

    Attributes:
        name: Of the tensor.
        data_type: As Triton calls it, such as ``TYPE_FP32``.
        dims: Sizes without the batch axis where Triton batches; -1 is any.
        scalar: Whether a sample has no axes: Triton wants one of size 1 then, and takes it away.
        optional: Whether a request may leave it out.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    scalar: bool = False
    optional: bool = False


@dataclass(frozen=True)
class TritonConfig:
    """A model's configuration.

    Attributes:
        name: Of the model.
        backend: Of Triton that runs it.
        max_batch: Samples that Triton may batch; 0: it batches nothing, and shapes have all their axes.
        inputs: Of the model.
        outputs: Likewise.
        parameters: Texts that the backend reads.
        remarks: Lines for who reads the file.
    """

    name: str
    backend: str
    max_batch: int
    inputs: Sequence[TritonTensor]
    outputs: Sequence[TritonTensor]
    parameters: Mapping[str, str]
    remarks: Sequence[str] = ()

    def text(self) -> str:
        """The file's content."""
        lines = [f"{MARK}; it may be edited, and is replaced when the model is built again."]
        lines += [f"# {remark}" for remark in self.remarks]
        lines += [f"name: {_quoted(self.name)}", f"backend: {_quoted(self.backend)}"]
        lines.append(f"max_batch_size: {self.max_batch}")
        for kind, tensors in (("input", self.inputs), ("output", self.outputs)):
            for tensor in tensors:
                lines += [f"{kind} {{", *(f"{_INDENT}{line}" for line in _fields(tensor)), "}"]
        if self.max_batch:
            lines.append("dynamic_batching { }")
        lines += ["instance_group {", f"{_INDENT}count: 1", f"{_INDENT}kind: KIND_CPU", "}"]
        for key, value in self.parameters.items():
            lines += ["parameters {", f"{_INDENT}key: {_quoted(key)}"]
            lines += [f"{_INDENT}value {{ string_value: {_quoted(value)} }}", "}"]
        return "".join(f"{line}\n" for line in lines)


def triton_tensor(spec: TensorSpec, batch_axis: str | None, *, optional: bool = False) -> TritonTensor:
    """A tensor of a bundle as Triton describes it.

    Args:
        spec: Of the bundle.
        batch_axis: The axis that Triton batches along, the tensor's first; None where it batches nothing.
        optional: Whether a request may leave it out.

    Raises:
        ExportError: It has no axes, which Triton does not know.
    """
    sizes = spec.shape if batch_axis is None else spec.shape[1:]
    dims = tuple(size if isinstance(size, int) else -1 for size in sizes)
    if not spec.shape:
        raise ExportError(f"got {spec.name!r} without axes, expected one at least: Triton has no scalars")
    data_type = f"TYPE_{datatype(np.dtype(spec.dtype))}"
    return TritonTensor(spec.name, data_type, dims or (1,), scalar=not dims, optional=optional)


def _fields(tensor: TritonTensor) -> list[str]:
    lines = [f"name: {_quoted(tensor.name)}", f"data_type: {tensor.data_type}"]
    lines.append(f"dims: [ {', '.join(map(str, tensor.dims))} ]")
    if tensor.scalar:
        lines.append("reshape { shape: [ ] }")
    if tensor.optional:
        lines.append("optional: true")
    return lines


def _quoted(text: str) -> str:
    """A text in quotes, whatever is in it."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode("utf-8"))
    return f'"{"".join(plain)}"'
