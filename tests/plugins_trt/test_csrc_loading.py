"""The ways in which programs load the plugin library, and the TensorRTs that it must not touch."""

from __future__ import annotations

import ctypes

from adaptrt.ops import RECORDS
from adaptrt.plugins_trt.op_table import op_table
from tests.plugins_trt.plugin_host import Build

CREATORS = [f"adaptrt::{plugin['name']} 1 PLUGIN CREATOR_V3ONE" for plugin in op_table(RECORDS)]


def test_registry_loads_it(csrc: Build) -> None:
    """As trtexec --dynamicPlugins does; the stand-in fails where a creator is there twice, as TensorRT does."""
    report, _ = csrc.host("--tensorrt", csrc.tensorrt)
    names = {"ConditionalMLP", "ConditionalMLPOrder", "ConditionalSwiGLU", "ConditionalSwiGLUUp", "SelectTokens"}
    assert names <= {creator.split()[0].removeprefix("adaptrt::") for creator in report["creators"]}
    assert report["loaded"] and report["creators"] == CREATORS and not report["log"]


def test_opening_it_registers_it(csrc: Build) -> None:
    """As ONNX Runtime does with trt_extra_plugin_lib_paths."""
    report, _ = csrc.host("--tensorrt", csrc.tensorrt, "--load", "dlopen")
    assert report["creators"] == CREATORS and not report["log"]


def test_registering_late(csrc: Build) -> None:
    """As a Python process does that opens it before it imports tensorrt."""
    report, _ = csrc.host("--tensorrt", csrc.tensorrt, "--load", "register", "--late")
    assert report["registered"] == len(CREATORS) and report["creators"] == CREATORS
    again, _ = csrc.host("--tensorrt", csrc.tensorrt, "--load", "register")
    assert again["registered"] == 0 and again["creators"] == CREATORS


def test_without_tensorrt_it_loads_and_does_nothing(csrc: Build) -> None:
    report, _ = csrc.host("--load", "register")
    assert report["registered"] == 0 and not report["stderr"]


def test_another_major_version_is_not_touched(csrc: Build) -> None:
    """The stand-in aborts when its registry is asked for."""
    for how, key, wanted in (("register", "registered", -1), ("creators", "creators_given", 0)):
        report, _ = csrc.host("--tensorrt", csrc.other_tensorrt, "--load", how)
        assert report[key] == wanted
        other = int(csrc.other_tensorrt.name.rpartition(".")[2])
        assert f"got TensorRT {other} in this process, expected {other - 1}, for which" in report["stderr"]


def test_it_says_what_it_was_built_from(csrc: Build) -> None:
    library = ctypes.CDLL(str(csrc.library))
    library.adaptrtKernelSourceHash.restype = ctypes.c_char_p
    assert library.adaptrtKernelSourceHash() == b"0" * 64
    assert library.adaptrtTensorrtMajor() == int(csrc.tensorrt.name.rpartition(".")[2])
