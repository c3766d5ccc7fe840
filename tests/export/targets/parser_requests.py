"""What NVIDIA's parser asks of registered plugins, written to a file; run in a process of its own.

``python parser_requests.py GRAPH RECORD OP@NAMESPACE@VERSION ...``: registers a creator for each op, parses, and
appends one line of JSON per event, each on the disk before the next: TensorRT-RTX runs no plugins, and may end the
process where one is added.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

import numpy as np
import tensorrt_rtx_bindings as trt

FIELDS = {
    "SelectTokens": [("limits", trt.PluginFieldType.CHAR)],
    "ConditionalMLPOrder": [("learners", trt.PluginFieldType.INT32)],
}


def note(record: TextIO, event: dict[str, Any]) -> None:
    record.write(json.dumps(event) + "\n")
    record.flush()
    os.fsync(record.fileno())


class Creator(trt.IPluginCreatorV3One):
    """Writes down what it is asked for, and gives nothing."""

    def __init__(self, record: TextIO, op: str, namespace: str, version: str) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.record = record
        self.name, self.plugin_namespace, self.plugin_version = op, namespace, version
        fields = [trt.PluginField(name, np.array([]), kind) for name, kind in FIELDS.get(op, [])]
        self.field_names = trt.PluginFieldCollection(fields)

    def create_plugin(self, name: str, fields: Any, phase: Any) -> None:
        values = {each.name: self.value(each) for each in fields}
        asked = f"{self.name}@{self.plugin_namespace}@{self.plugin_version}"
        note(self.record, {"asked": asked, "node": name, "fields": values, "phase": str(phase)})

    @staticmethod
    def value(field: Any) -> Any:
        content = np.asarray(field.data)
        if field.type == trt.PluginFieldType.CHAR:
            return content.tobytes().decode().rstrip("\0")
        return content.view(np.int32).tolist() if field.type == trt.PluginFieldType.INT32 else str(field.type)


def main(graph: str, record_file: str, *wanted: str) -> None:
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    with open(record_file, "a") as record:  # noqa: PTH123
        creators = [Creator(record, *each.split("@")) for each in wanted]
        for creator in creators:
            if not trt.get_plugin_registry().register_creator(creator, creator.plugin_namespace):
                raise RuntimeError(f"{creator.name} was not registered")
        network = trt.Builder(log).create_network(0)
        parser = trt.OnnxParser(network, log)
        parsed = parser.parse_from_file(graph)
        errors = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        note(record, {"parsed": parsed, "errors": errors})


if __name__ == "__main__":
    main(*sys.argv[1:])
