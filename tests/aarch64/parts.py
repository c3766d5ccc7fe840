"""What `make test-aarch64` runs, in parts: files of tests, and those of their tests that cannot run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

COMPILES = "compiles a program and runs it: that compiler is of the machine, not emulated"


@dataclass(frozen=True)
class Part:
    """Files of tests that run in one process of the emulated Python."""

    paths: tuple[str, ...]
    expression: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tests that are deselected, each with the reason."""
    programs: bool = False
    """Whether the C++ programs are needed."""
    kept: bool = True
    """Whether the result is written to the file."""


CPP_FILES = ("conformance", "refusals", "validation", "further_bundles", "latency", "c_abi", "install")
PARTS = {
    "conformance": Part(("tests/conformance/test_conformance.py",)),
    "cpp": Part(
        tuple(f"tests/cpp/test_{name}.py" for name in CPP_FILES),
        left_out={
            "tests/cpp/test_c_abi.py::test_from_c": COMPILES,
            "tests/cpp/test_install.py::test_another_project_finds_it": COMPILES,
            "tests/cpp/test_install.py::test_programs_are_small": "strips the programs of x86-64",
            "tests/cpp/test_install.py::test_it_compiles_for_aarch64": "that is how these programs were made",
        },
        programs=True,
    ),
    "runtime": Part(
        ("tests/runtime",),
        left_out={
            "tests/runtime/test_recovery.py::test_memory_ran_out_twenty_times": (
                "limits the address space, which the emulator only pretends to do"
            ),
        },
    ),
    "smoke": Part(
        ("tests/conformance/test_conformance.py", "tests/cpp/test_conformance.py"),
        expression="(onnxruntime_passes or gives_the_bytes) and (one_stage or max_softmax)",
        programs=True,
        kept=False,
    ),
}
"""By name; all but those that are not kept run where none is named."""
