"""The executors of layers, by what a user asks for."""

from __future__ import annotations

from adaptrt.models.training.layer_jobs import InProcess, LayerExecutor
from adaptrt.models.training.layer_processes import Processes
from adaptrt.models.training.layer_ray import RayNodes


def executor_for(workers: int | None, ray: str | None) -> LayerExecutor:
    """What distils layers.

    Args:
        workers: Number of processes; None or 1: this one.
        ray: HOST:PORT of a Ray cluster, which then does it; None: this machine does.

    Raises:
        LayerJobError: The address is none.
    """
    if ray is not None:
        return RayNodes(ray)
    return InProcess() if workers in (None, 1) else Processes(workers)
