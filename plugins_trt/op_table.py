"""What the plugins' C++ library must know of each op, as data: ``csrc/ops.json``, written from the ops' records.

``python -m adaptrt.plugins_trt.op_table`` writes it anew. The file is kept beside the C++ sources because the library
is built on devices that have neither onnx nor NumPy; a test compares it with the records, and ``embed_kernels.py``
makes C++ of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adaptrt.ops import RECORDS, Field, OpRecord, PartAttribute
from adaptrt.ops.int8_forms import int8_records
from adaptrt.plugins_trt.kernel_records import kernel_records
from adaptrt.plugins_trt.part_plugins import part_plugins

TABLE_FILE = Path(__file__).resolve().parent / "csrc" / "ops.json"
REAL = "real"
"""The dtype of tensors that are float32, float16 or bfloat16, all of a node the same."""


def op_table(records: Mapping[str, OpRecord]) -> list[dict[str, Any]]:
    """Describe every plugin: whole ops, then the parts that are nodes of their own; of both the int8 forms, too.

    Args:
        records: Ops by name; those without parts have no plugin.

    Returns:
        One object a plugin: ``name``, ``version``; ``inputs``, ``outputs`` and ``scratch`` (between its kernels), each
        a list of tensors with ``name``, ``dtype`` and ``axes`` (an axis "N*h" is a product of sizes); ``attributes``;
        and ``kernels``, in order, as manifests name them. Of several variants of a kernel a plugin takes one whose
        arguments have the types of its tensors: so int8 forms name the same kernels.

    Raises:
        KernelError: Two ops have different parts of one name, or a part's kernel has no layout.
    """
    kernels = kernel_records(records)
    parts = part_plugins(kernels)
    own = {name: record for name, record in records.items() if record.parts and record.name not in kernels}
    forms = int8_records(own.values())
    whole = [
        _whole(record, [parts[part.name].kernel.op for part in record.parts])
        for record in (*own.values(), *forms.values())
    ]
    each = [
        _plugin(name, one.part.version, one.part.inputs, one.part.outputs, (), one.part.attributes, (one.kernel.op,))
        for name, one in parts.items()
    ]
    return [*whole, *each]


def table_text(records: Mapping[str, OpRecord]) -> str:
    """The table as the file holds it: a tensor a line."""
    plugins = []
    for plugin in op_table(records):
        members = []
        for key, value in plugin.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                members.append(f'  "{key}": [\n' + ",\n".join(f"   {json.dumps(entry)}" for entry in value) + "\n  ]")
            else:
                members.append(f'  "{key}": {json.dumps(value)}')
        plugins.append(" {\n" + ",\n".join(members) + "\n }")
    return "[\n" + ",\n".join(plugins) + "\n]\n"


def _whole(record: OpRecord, kernels: Sequence[str]) -> dict[str, Any]:
    """An op of several parts, whose attributes are its own; what lies between is in the workspace."""
    last = record.parts[-1]
    scratch = [field for part in record.parts[:-1] for field in part.outputs]
    version = max(part.version for part in record.parts)
    return _plugin(record.name, version, record.inputs, last.outputs, scratch, (), kernels)


def _plugin(
    name: str,
    version: int,
    inputs: Iterable[Field],
    outputs: Iterable[Field],
    scratch: Iterable[Field],
    attributes: Iterable[PartAttribute],
    kernels: Sequence[str],
) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "inputs": [_tensor(field) for field in inputs],
        "outputs": [_tensor(field) for field in outputs],
        "scratch": [_tensor(field) for field in scratch],
        "attributes": [{"name": one.name, "size": one.size, "words": dict(one.words)} for one in attributes],
        "kernels": list(kernels),
    }


def _tensor(field: Field) -> dict[str, Any]:
    dtype = REAL if len(field.dtypes) > 1 else field.dtypes[0]
    return {"name": field.name, "dtype": dtype, "axes": list(field.axes)}


def main() -> int:
    """Write the table."""
    TABLE_FILE.write_text(table_text(RECORDS), encoding="utf-8")
    print(f"wrote {len(op_table(RECORDS))} plugins to {TABLE_FILE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
