"""Two Ray nodes beside one: the same layers, the same weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from adaptrt.bench import layer_nodes
from adaptrt.bench.errors import BenchError
from adaptrt.bench.layer_nodes import main, measure

pytestmark = pytest.mark.slow("starts Ray clusters")


@pytest.mark.exhaustive
def test_both_clusters_distil_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: install adaptrt[ray]")
    if layer_nodes.granted_processors().threads < 2:
        pytest.skip("one core: two nodes would share it")
    file = tmp_path / "nodes.json"
    command = ["digits", "--steps", "2", "--tokens", "512", "--rounds", "1", "--json", str(file)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0 and "weights equal" in done.output
    result = json.loads(file.read_text())
    assert result["same"] is True and set(result["seconds"]) == {"1", "2"}
    assert result["ratio"]["median"] > 0


def test_it_takes_ray_and_two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> None:
        measure(Path("digits"), steps=1, tokens=10, rounds=1)

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(BenchError, match=r"adaptrt\[ray\]"):
        asked()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    alone = dataclasses.replace(layer_nodes.granted_processors(), usable=1, cores=1, quota=None)
    monkeypatch.setattr(layer_nodes, "granted_processors", lambda: alone)
    with pytest.raises(BenchError, match="got 1 core, expected 2"):
        asked()
