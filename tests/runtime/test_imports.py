"""What importing the runtime may bring along, seen in a fresh interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import adaptrt

TINY = Path(__file__).parent / "fixtures" / "tiny"
SOURCE = Path(adaptrt.__file__).parent.parent

BLOCKER = """
import json, sys
class Blocker:
    names = {"torch", "onnx", "click", "rich", "PIL", "matplotlib", "sklearn", "safetensors", "onnxscript",
             "tokenizers", "transformers"}
    tried = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            self.tried.append(name)
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> dict[str, list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKER + code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


REPORT = """
roots = sorted({name.partition(".")[0] for name in sys.modules})
rooms = sorted({".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("adaptrt.")})
print(json.dumps({"tried": Blocker.tried, "roots": roots, "rooms": rooms}))
"""


def test_importing_needs_numpy_and_msgspec_only():
    seen = run("import adaptrt.runtime" + REPORT)
    assert seen["tried"] == []
    for name in ("torch", "onnx", "onnxruntime", "click", "rich", "platformdirs"):
        assert name not in seen["roots"]
    assert {"numpy", "msgspec"} <= set(seen["roots"])
    assert seen["rooms"] == ["adaptrt.runtime"]


def test_running_adds_onnxruntime_only():
    seen = run(
        f"""
import numpy as np
from adaptrt.runtime import Budget, load
model = load({str(TINY)!r}, threads=1)
model.run({{"x": np.zeros((2, 4), np.float32)}}, budget=Budget.fraction(0.5))
"""
        + REPORT
    )
    assert "onnxruntime" in seen["roots"]
    for name in ("torch", "onnx", "click", "rich"):
        assert name not in seen["roots"]
    assert seen["rooms"] == ["adaptrt.runtime"]


def test_without_onnxruntime_the_error_names_the_extra():
    code = f"""
Blocker.names = Blocker.names | {{"onnxruntime"}}
from adaptrt.runtime import BackendError, load
try:
    load({str(TINY)!r})
except BackendError as error:
    print(json.dumps({{"error": [str(error)]}}))
"""
    (message,) = run(code)["error"]
    assert "install adaptrt[cpu] or adaptrt[gpu]" in message


def test_without_their_packages_texts_and_pictures_name_the_extra():
    code = """
from pathlib import Path
from adaptrt.runtime import InputError
from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing, TensorSpec, TextPreprocessing
from adaptrt.runtime.preprocessing.image import preprocess_images
from adaptrt.runtime.preprocessing.text import TextPreprocessor
ids = TensorSpec("ids", "int64", ["batch", 4], minimum=0, maximum=9)
pixels = TensorSpec("x", "float32", ["batch", 1, 4, 4], ImagePreprocessing(1, 4, 4))
said = []
for call in (
    lambda: TextPreprocessor(TextPreprocessing({"ids": "ids"}, 4), {"ids": ids}, {}, b"{}", "a.json"),
    lambda: preprocess_images(["a.png"], pixels),
):
    try:
        call()
    except InputError as error:
        said.append(str(error))
print(json.dumps({"error": said}))
"""
    texts, pictures = run(code)["error"]
    assert "install adaptrt[text]" in texts and "install adaptrt[image]" in pictures


def test_everything_public_is_listed():
    import adaptrt.runtime as runtime

    assert set(runtime.__all__) >= {
        "load",
        "Budget",
        "Result",
        "AdaptiveModel",
        "Bundle",
        "Decisions",
        "OperatingPoint",
    }
    for name in runtime.__all__:
        assert getattr(runtime, name).__doc__
