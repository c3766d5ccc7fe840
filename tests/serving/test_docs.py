"""The request of docs/embed.md, as it stands there but for the bundle, which is a small one, and the port."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from adaptrt.runtime import Budget, load
from tests.docs.code_blocks import blocks_of, page_text
from tests.serving.server_process import CLI, FIXTURES, ServerProcess

PAGE = "docs/embed.md"
EXPORTED = FIXTURES / "exported"

pytestmark = pytest.mark.slow("starts a server")


def test_the_pages_request_is_answered_as_by_the_runtime(tmp_path: Path) -> None:
    (text,) = (one.text for one in blocks_of(PAGE, page_text(PAGE)) if "curl" in one.text)
    bundle = Path(shutil.copytree(EXPORTED, tmp_path / "bundle"))
    model = load(bundle, threads=1)
    (spec,) = model.bundle.inputs
    shape = [1 if isinstance(size, str) else size for size in spec.shape]
    server = ServerProcess(tmp_path, CLI, bundle, "--threads", 1)
    try:
        for old, new in {
            "127.0.0.1:8080": server.http,
            "/digits/": f"/{model.bundle.name}/",
            '"pixels"': f'"{spec.name}"',
            "[1, 1, 8, 8]": json.dumps(shape),
            "head -n 64": f"head -n {int(np.prod(shape))}",
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        done = subprocess.run(["sh", "-eu"], input=text, capture_output=True, text=True, timeout=60, check=True)
    finally:
        server.kill()
    answer = json.loads(done.stdout)
    result = model.run({spec.name: np.zeros(shape, np.float32)}, budget=Budget.fraction(0.5))
    outputs = {one["name"]: one["data"] for one in answer["outputs"]}
    assert np.array_equal(np.float32(outputs["logits"]), result.outputs["logits"].ravel())
    assert answer["parameters"]["macs_fraction"] == pytest.approx(float(result.macs_fraction.mean()), rel=1e-6)
