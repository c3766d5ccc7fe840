"""Where a network is trained: the CPU, or a GPU that torch's CUDA drives. What is kept is always of the CPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adaptrt import AdaptrtError

CPU = torch.device("cpu")


class DeviceError(AdaptrtError):
    """A device that cannot be trained on."""


def checked_device(name: str) -> torch.device:
    """The device of a name: ``cpu``, ``cuda``, ``cuda:1``.

    Raises:
        DeviceError: There is no such device here.
    """
    if name == "cpu":
        return CPU
    if not re.fullmatch(r"cuda(:\d{1,3})?", name):
        raise DeviceError(f"got device {name!r}, expected cpu, cuda, or cuda:1 for the second GPU; name one")
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        remedy = "install a torch with CUDA" if torch.version.cuda is None else "see whether nvidia-smi lists one"
        raise DeviceError(f"got device {name}, but {why}, expected one that it can use; {remedy}, or use cpu")
    device = torch.device(name)
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"got device {name}, expected one of {torch.cuda.device_count()}, from cuda:0 on; name one")
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


def moved(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def on_cpu(state: Any) -> Any:
    """The same, every tensor in it of the CPU; of dictionaries and lists, as ``state_dict`` gives them."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    if isinstance(state, list):
        return [on_cpu(value) for value in state]
    return state


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given: a GPU is still at work when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
