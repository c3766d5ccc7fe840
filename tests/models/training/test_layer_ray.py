"""Layers distilled on a Ray cluster: the weights of one process, machines that are lost, going on, no answer."""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adaptrt.bench.layer_nodes import cluster as started_cluster
from adaptrt.models.training.adapting import adapt_network
from adaptrt.models.training.layer_jobs import LayerJobError, using_threads
from adaptrt.models.training.layer_ray import RayNodes
from adaptrt.models.training.phase import CheckpointError, Progress
from tests.models.training.test_adapting import SETTINGS, StoppedError, dense_of, quiet, samples_of
from tests.models.training.test_layer_jobs import same

ray = pytest.importorskip("ray", reason="ray is not installed: install adaptrt[ray]")
pytestmark = pytest.mark.slow("starts Ray clusters")

LONG = dataclasses.replace(SETTINGS, distil_steps=1500, joint_steps=2)
"""Layers that take seconds."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with using_threads(1):
        yield


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, with a CPU each; the first is the head."""
    with started_cluster(2) as nodes:
        (nodes.second,) = nodes.worker_nodes
        yield nodes


def test_machines_give_the_weights_of_one_process(cluster: Any, tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    alone = adapt_network(dense, samples, SETTINGS, tmp_path / "alone", quiet)
    executor = RayNodes(cluster.address)
    executor.check()

    def stop(progress: Progress) -> None:
        if progress.phase == "distil 3 layers" and progress.step:
            raise StoppedError

    with pytest.raises(StoppedError):
        adapt_network(dense, samples, SETTINGS, tmp_path / "far", stop, executor)
    assert not ray.is_initialized()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "far").glob("distil*.pt")}
    assert finished
    far = adapt_network(dense, samples, SETTINGS, tmp_path / "far", quiet, executor)
    assert executor.threads == 1 and not ray.is_initialized()
    assert same(alone, far)
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


def test_a_lost_machine_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    dense = dense_of()
    samples = samples_of(dense)
    lost: list[bool] = []

    def lose(progress: Progress) -> None:
        if progress.phase == "distil 3 layers" and not lost and not ray.available_resources().get("CPU"):
            lost.append(True)  # both have a layer
            cluster.remove_node(cluster.second, allow_graceful=False)

    far = adapt_network(dense, samples, LONG, tmp_path / "far", lose, RayNodes(cluster.address))
    assert lost
    assert same(far, adapt_network(dense, samples, LONG, tmp_path / "alone", quiet))


def test_what_a_layer_raises_there_is_raised_here(cluster: Any, tmp_path: Path) -> None:
    dense = dense_of()
    (tmp_path / "distil1.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"cannot go on from .*distil1.pt"):
        adapt_network(dense, samples_of(dense), SETTINGS, tmp_path, quiet, RayNodes(cluster.address))
    assert not ray.is_initialized()


@pytest.mark.parametrize("answers", [False, True])
def test_an_address_without_ray_is_told_within_seconds(answers: bool) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if answers:
            other.listen()
        begun = time.monotonic()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(LayerJobError, match=f"cannot join Ray at {address}: .*ray start --head"):
            RayNodes(address).check()
        assert time.monotonic() - begun < 20
