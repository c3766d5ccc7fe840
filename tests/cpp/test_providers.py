"""ONNX Runtime's execution providers from C++: the CPU's by name, one that is not there, one that does not start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from adaptrt.runtime import BackendError, load
from tests.conformance.kit import KIT
from tests.cpp.programs import Fed, Programs, same
from tests.cpp.test_conformance import case

CPU = "CPUExecutionProvider"
NAMES = ("one_stage", "exits_max_softmax")


def loading(bundle: Path, *providers: dict[str, Any]) -> dict[str, Any]:
    return {"op": "load", "bundle": str(bundle), "providers": list(providers)}


@pytest.mark.parametrize("name", NAMES)
def test_the_cpu_by_name_is_the_cpu(cpp: Programs, tmp_path: Path, name: str) -> None:
    content, arrays = case(name)
    bundle, fed = KIT / content["bundle"], Fed(tmp_path / "fed.bin")
    running = {"op": "run", **fed.inputs(arrays.get_all(content["inputs"]))}
    fed.write()
    asked = [{"op": "load", "bundle": str(bundle)}, running, loading(bundle, {"name": CPU}), running]
    answered = cpp.ask(asked, tmp_path)
    usual, named = (answered.outputs(answered.replies[place]) for place in (1, 3))
    assert usual.keys() == named.keys() and all(same(usual[key], named[key]) for key in usual)
    assert answered.replies[0] == answered.replies[2]


def test_one_that_is_not_there_is_refused_as_in_python(cpp: Programs, tmp_path: Path) -> None:
    bundle = KIT / case(NAMES[0])[0]["bundle"]
    (reply,) = cpp.ask([loading(bundle, {"name": CPU}, {"name": "NoSuchProvider"})], tmp_path).replies
    with pytest.raises(BackendError) as raised:
        load(bundle, providers=[CPU, "NoSuchProvider"])
    assert reply["error"] == "backend" and "\n" not in reply["text"]
    assert reply["text"].split("; ")[0] == str(raised.value).split("; ")[0]


def test_one_that_does_not_start_is_an_error(cpp: Programs, tmp_path: Path) -> None:
    """An option without a value stops any provider, and there is no silent way back to the CPU."""
    others = [name for name in onnxruntime.get_available_providers() if name != CPU]
    if not others:
        pytest.skip("this onnxruntime has the CPU's provider only")
    bundle = KIT / case(NAMES[0])[0]["bundle"]
    (reply,) = cpp.ask([loading(bundle, {"name": others[0], "options": {"": ""}})], tmp_path).replies
    assert reply["error"] == "backend" and f"provider {others[0]!r} did not start (" in reply["text"]
