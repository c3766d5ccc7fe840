"""The bundles of ``fixtures`` in a folder of the test's own, and ways to alter them."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from adaptrt.runtime import AdaptiveModel, load
from adaptrt.runtime.bundle.bundle_file import TensorSpec, read_bundle
from tests.runtime.cuda_stand_in import Cuda
from tests.runtime.tensorrt_bundles import build
from tests.runtime.tensorrt_stand_in import TensorRT

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

FIXTURES = Path(__file__).parent / "fixtures"
TINY = FIXTURES / "tiny"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the tiny bundle, whose parent folder is the test's own too."""
    folder = tmp_path / "bundle"
    shutil.copytree(TINY, folder)
    return folder


@pytest.fixture
def exits(tmp_path: Path) -> Path:
    """A copy of the bundle of three stages."""
    return Path(shutil.copytree(FIXTURES / "exits", tmp_path / "exits"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A copy of the bundle of two stages that drop tokens."""
    return Path(shutil.copytree(FIXTURES / "tokens", tmp_path / "tokens"))


@pytest.fixture(scope="session")
def exits_model() -> AdaptiveModel:
    """``exits``, loaded once; its budget is never set."""
    return load(FIXTURES / "exits", threads=1)


@pytest.fixture(scope="session")
def tokens_model() -> AdaptiveModel:
    """``tokens``, loaded once; its budget is never set."""
    return load(FIXTURES / "tokens", threads=1)


@pytest.fixture
def edit() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Change ``bundle.json`` through a function that alters its content in place."""

    def edit_json(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
        content = json.loads((folder / "bundle.json").read_text())
        before = copy.deepcopy(content)
        change(content)
        if any(content.get(key) != before.get(key) for key in ("curve", "knobs")):
            content.pop("budget_table", None)  # it was of another curve
        (folder / "bundle.json").write_text(json.dumps(content))

    return edit_json


@pytest.fixture
def replace_model(edit: Any) -> Callable[..., None]:
    """Put another ONNX file into a bundle, with its hash and the files of weights it may refer to."""

    def replace(folder: Path, model: bytes, external_data: dict[str, bytes] | None = None) -> None:
        (folder / "model.onnx").write_bytes(model)
        listed = []
        for name, content in (external_data or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            listed.append({"file": name, "sha256": hashlib.sha256(content).hexdigest()})

        def change(content: dict[str, Any]) -> None:
            content["stages"][0].update(sha256=hashlib.sha256(model).hexdigest(), external_data=listed)

        edit(folder, change)

    return replace


@pytest.fixture(scope="session")
def model() -> AdaptiveModel:
    """The tiny bundle, loaded once; tests that set its budget load their own."""
    return load(TINY, threads=1)


@pytest.fixture
def x() -> np.ndarray[Any, Any]:
    """Inputs for the tiny model: float32 [32, 4]."""
    return np.random.default_rng(3).standard_normal((32, 4)).astype(np.float32)


class RecordingBackend:
    """An engine that computes nothing: the share of work it reports is the price it was fed."""

    def __init__(self) -> None:
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.feeds: list[dict[str, Any]] = []

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.feeds.append(dict(feeds))
        batch = len(feeds["x"])
        return {"logits": np.zeros((batch, 3), np.float32), "macs_fraction": np.repeat(feeds["price"], batch)}

    def run_values(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
        found = self.run(feeds)
        return [found[name] for name in outputs]

    def recover(self) -> None:
        """Nothing to forget."""

    def to_value(self, array: Any) -> Any:
        return array

    def to_array(self, value: Any) -> Any:
        return value


@pytest.fixture(scope="session")
def recording() -> Callable[..., tuple[AdaptiveModel, RecordingBackend]]:
    """Makes a model that runs a bundle, by default the tiny one, on a backend that remembers its feeds."""

    def make(folder: Path = TINY) -> tuple[AdaptiveModel, RecordingBackend]:
        backend = RecordingBackend()
        return AdaptiveModel(read_bundle(folder), [backend]), backend

    return make


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    """A stand-in for the CUDA runtime, imported in its place."""
    made = Cuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", made)
    return made


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, cuda: Cuda) -> TensorRT:
    """A stand-in for TensorRT on that for CUDA, imported in its place."""
    made = TensorRT(cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    return made


@pytest.fixture
def engines(tiny: Path) -> Path:
    """The tiny bundle with an engine for the stand-in."""
    return build(tiny)
