"""Command lines of ``trtexec``, which comes with TensorRT, that build what ``adaptrt build`` would."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from adaptrt.export.targets.profiles import InputRange, Shape


def trtexec_command(
    onnx_file: Path, engine_file: Path, ranges: Mapping[str, InputRange], plugin_library: Path | None = None
) -> str:
    """One line for a shell.

    Strongly typed: types are the graph's. Without TF32, which would round what float32 is kept for: decisions.

    Args:
        onnx_file: The prepared graph.
        engine_file: Where the engine is to be.
        ranges: Of its inputs with dynamic axes.
        plugin_library: Loaded for the build; whoever runs the engine has to load it too.
    """
    words = ["trtexec", f"--onnx={onnx_file}", f"--saveEngine={engine_file}", "--stronglyTyped", "--noTF32"]
    for option, which in (("minShapes", "minimum"), ("optShapes", "optimum"), ("maxShapes", "maximum")):
        shapes = [f"{name}:{_shown(getattr(each, which))}" for name, each in ranges.items()]
        if shapes:
            words.append(f"--{option}={','.join(shapes)}")
    if plugin_library is not None:
        words.append(f"--dynamicPlugins={plugin_library}")
    words.append("--skipInference")
    return shlex.join(words)


def trtexec_script(commands: list[str]) -> str:
    """A script that runs the commands in the folder that it lies in."""
    return "\n".join(["#!/bin/sh", "set -e", 'cd "$(dirname "$0")"', *commands, ""])


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))
