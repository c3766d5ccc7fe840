"""The C ABI, from C and from Python's ctypes, which stands for the other languages."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from adaptrt.runtime import Budget, load
from tests.conformance.kit import KIT
from tests.cpp.programs import CPP, Programs, onnxruntime_library

BUNDLE = KIT.parents[1] / "runtime" / "fixtures" / "exits"


def play(programs: Programs, scratch: Path, *options: str) -> None:
    """Compile the host with a C compiler, run it, compare with Python."""
    host = scratch / "host"
    words = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", *options, f"-I{CPP / 'c'}"]
    source = Path(__file__).parent / "c_abi_host.c"
    linked = [f"-L{programs.folder}", f"-Wl,-rpath,{programs.folder}", "-ladaptrt"]
    done = subprocess.run([*words, source, "-o", host, *linked, "-lm"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = programs.run(str(host), BUNDLE)
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout)
    x = (np.arange(12, dtype=np.float32) / 8 - 0.5).reshape(2, 6)
    inputs: dict[str, Any] = {"x": x, "hint": np.full((2, 2), 0.25, np.float32), "scale": np.ones(1, np.float32)}
    result = load(BUNDLE, threads=1).run(inputs, budget=Budget.fraction(0.5))
    assert came["name"] == "logits"
    assert np.array_equal(np.array(came["output"], np.float32).reshape(2, 3), result.outputs["logits"])
    assert np.array_equal(np.array(came["macs_fraction"], np.float32), result.macs_fraction)
    assert result.exit is not None and came["exits"] == result.exit.tolist()


def test_from_c(cpp: Programs, tmp_path: Path) -> None:
    play(cpp, tmp_path)


def test_only_its_own_names_are_exported(cpp: Programs) -> None:
    done = subprocess.run(["nm", "-D", "--defined-only", cpp.folder / "libadaptrt.so"], capture_output=True, text=True)
    names = {line.split()[-1] for line in done.stdout.splitlines() if " T " in line}
    header = (CPP / "c" / "adaptrt.h").read_text()
    assert names and all(f" {name}(" in header or f"*{name}(" in header or f" * {name}(" in header for name in names), (
        names
    )


def test_from_ctypes_in_this_process(cpp: Programs) -> None:
    """Beside the Python package's own ONNX Runtime, of which the library takes its own view."""
    os.environ["ADAPTRT_ONNXRUNTIME"] = str(onnxruntime_library())
    library = ctypes.CDLL(str(cpp.folder / "libadaptrt.so"))
    library.adaptrt_last_error.restype = ctypes.c_char_p
    model = ctypes.c_void_p()
    assert library.adaptrt_load(str(BUNDLE).encode(), None, 1, ctypes.byref(model)) == 0, library.adaptrt_last_error()
    library.adaptrt_free_model(model)
    assert library.adaptrt_load(b"/nowhere", None, 1, ctypes.byref(model)) == 1
    assert library.adaptrt_last_error().startswith(b"no folder '/nowhere'")
