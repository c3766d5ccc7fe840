"""The programs of docs/embed.md compile and run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import Budget, load
from tests.conformance.kit import KIT
from tests.cpp.programs import CPP, Programs
from tests.docs.code_blocks import blocks_of, page_text

PAGE = "docs/embed.md"
EXPORTED = KIT.parents[1] / "runtime" / "fixtures" / "exported"


def block(language: str, run: bool = True) -> str:
    blocks = blocks_of(PAGE, page_text(PAGE))
    (text,) = [one.text for one in blocks if one.language == language and (one.not_run is None) == run]
    return text


@pytest.mark.parametrize("language", ["cpp", "c"])
def test_the_page_program_runs(language: str, cpp: Programs, tmp_path: Path) -> None:
    """On a small bundle in the place of digits, with its input's name and size."""
    (tmp_path / "build").mkdir()
    shutil.copytree(EXPORTED, tmp_path / "build" / "digits")
    model = load(EXPORTED, threads=1)
    (spec,) = model.bundle.inputs
    shape = [1 if isinstance(size, str) else size for size in spec.shape]
    text = block(language).replace('"pixels"', f'"{spec.name}"').replace("1, 1, 8, 8", ", ".join(map(str, shape)))
    text = text.replace("64", str(max(64, int(np.prod(shape))))).replace(
        "ADAPTRT_FLOAT32, 4", f"ADAPTRT_FLOAT32, {len(shape)}"
    )
    source = tmp_path / f"program.{language}"
    source.write_text(text)
    own = {
        "cpp": f"c++ -std=c++17 -O0 -I{CPP}/include -isystem {CPP}/vendor {source} -ldl -pthread",
        "c": f"cc -std=c99 -I{CPP}/c {source} -L{cpp.folder} -Wl,-rpath,{cpp.folder} -ladaptrt",
    }
    words = [*own[language].split(), "-Wall", "-Werror"]
    done = subprocess.run([*words, "-o", tmp_path / "program"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = cpp.run(str(tmp_path / "program"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = model.run({spec.name: np.zeros(shape, np.float32)}, budget=Budget.fraction(0.5))
    printed = [float(word) for word in done.stdout.split()[: 2 if language == "cpp" else 1]]
    wanted = [float(result.macs_fraction[0])]
    if language == "cpp":
        wanted.insert(0, float(result.outputs["logits"].flat[0]))
    assert printed == pytest.approx(wanted, rel=1e-4)


def test_the_block_that_needs_a_gpu_compiles(tmp_path: Path) -> None:
    source = tmp_path / "providers.cpp"
    body = f"adaptrt::Options options;\n{block('cpp', run=False)}\nreturn options.providers.size() == 2 ? 0 : 1;"
    source.write_text(f"#include <adaptrt/adaptrt.hpp>\nint main() {{ {body} }}\n")
    words = ["c++", "-std=c++17", "-O0", "-Wall", "-Werror", f"-I{CPP}/include", "-isystem", str(CPP / "vendor")]
    program = tmp_path / "providers"
    done = subprocess.run([*words, source, "-o", program, "-ldl", "-pthread"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert subprocess.run([program]).returncode == 0
