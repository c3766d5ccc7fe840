"""Training steps on a device that only knows shapes: what mixes it with the CPU fails as it would on a GPU.

torch's FakeTensorMode has such devices, and raises where tensors of two meet. A torch without CUDA has no gradients
on a fake ``cuda``; on a device of Python's own it has. That device is the process's for good, so tests run this file
in a process of its own: it prints what came of every case, in JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from adaptrt.models.adapters.text_encoder import TextEncoderConfig
from adaptrt.models.adapters.vit import ViTConfig
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.gate import ArgmaxGate, PriceGate
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.training import activations, adapting, first_maps, priced_losses
from adaptrt.models.training.activations import Activations
from adaptrt.models.training.adapting import AdaptSettings, joint_phase
from adaptrt.models.training.layer_phases import adaptive_of, distil_phase, ffn_of, gain_quantiles, gate_phase

GPU = "gpu"
TEXT = TextEncoderConfig(width=16, depth=2, heads=2, ffn_width=32, vocabulary=30, length=8, classes=3)
PICTURES = ViTConfig(image_size=8, patch_size=4, width=16, depth=2, heads=2, ffn_width=32, classes=3)
ACM, TOKENS, ROUTES = ACMConfig(learners=2), PruningConfig((1,)), RoutedFFNConfig()
CERTAIN, ENTROPY = ExitConfig((1,), "certainty"), ExitConfig((1,), "entropy")
OWN: dict[str, tuple[Any, dict[str, Any]]] = {
    "texts, all": (dataclasses.replace(TEXT, task="embedding"), {"acm": ACM, "exits": CERTAIN, "pruning": TOKENS}),
    "pictures, mean of what is left": (
        dataclasses.replace(PICTURES, class_token=False),
        {"pruning": PruningConfig((1,), averages_dropped=True), "exits": ENTROPY},
    ),
    "classes of texts": (TEXT, {"acm": ACM, "exits": ENTROPY, "pruning": TOKENS}),
    "classes of tokens": (dataclasses.replace(TEXT, task="token-classification"), {"acm": ACM, "exits": ENTROPY}),
    "answers": (dataclasses.replace(TEXT, task="question-answering"), {"acm": ACM, "exits": CERTAIN}),
    "features": (dataclasses.replace(TEXT, task="feature-extraction"), {"acm": ACM, "exits": CERTAIN}),
    "pictures, all": (PICTURES, {"acm": ACM, "exits": ENTROPY, "pruning": TOKENS}),
    "vectors of pictures": (dataclasses.replace(PICTURES, task="embedding"), {"acm": ACM, "exits": CERTAIN}),
    "pictures, learners": (PICTURES, {"acm": ACM}),
    "pictures, tokens": (PICTURES, {"pruning": TOKENS}),
    "pictures, exits": (PICTURES, {"exits": ENTROPY}),
    "pictures, routes": (PICTURES, {"routed": ROUTES, "exits": ENTROPY}),
}
PRETRAINED = (
    "bert", "mpnet", "albert", "modernbert", "eurobert", "vit", "beit", "dinov2_swiglu", "dinov3", "clip_text",
    "siglip_vision", "whisper", "wav2vec2",
)  # fmt: skip


def dense_of(name: str) -> Network:
    """A small network with random weights."""
    torch.manual_seed(0)
    if name in OWN:
        return Network.from_config(OWN[name][0]).eval()
    from tests.models.adapters.pretrained.tiny_models import length_of, pretrained_network

    found: Network = pretrained_network(name, task="feature-extraction", length=length_of(name))
    return found.eval()


def settings_of(name: str) -> AdaptSettings:
    """Families that suit it."""
    families = OWN[name][1] if name in OWN else {"acm": ACM, "exits": CERTAIN}
    return AdaptSettings(**families, batch=8, joint_steps=1, layer_batch=16)


def samples_of(dense: Network) -> Samples:
    """A few."""
    torch.manual_seed(1)
    return Samples.of(dense, {name: tensor.numpy() for name, tensor in dense.example_inputs(16).items()})


def onto(module: nn.Module, mode: FakeTensorMode) -> None:
    """Put a module's weights and buffers on a device of the mode; ``Module.to`` swaps no fake ones."""
    moved: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, own in part._parameters.items():
            if own is not None:
                fake = mode.from_tensor(own.detach()).to(GPU)
                part._parameters[name] = moved.setdefault(id(own), nn.Parameter(fake, requires_grad=own.requires_grad))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(GPU)


def outside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that needs the numbers themselves: it runs on the CPU in any training, and really does here."""

    def run(*args: Any, **named: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **named)

    return run


@contextlib.contextmanager
def prepared(name: str) -> Iterator[tuple[Network, Network, Samples, AdaptSettings]]:
    """The dense and the adaptive network on a fake device, and samples on the CPU."""
    dense, settings = dense_of(name), settings_of(name)
    samples = samples_of(dense)
    dense.requires_grad_(False)
    families = [family for family in settings.families.values() if family is not None]
    adaptive = dense.with_families(families)
    with contextlib.ExitStack() as stack:
        for module, function in (
            (adapting, "_drawn"), (Samples, "batch"), (Samples, "order"), (Activations, "draw"),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(module, function, outside(getattr(module, function))))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        onto(dense, mode)
        onto(adaptive, mode)
        yield dense, adaptive, samples, settings


def joint_step(name: str, *, precision: str = "float32", phase_of: Callable[..., Any] = joint_phase) -> None:
    """A batch of the joint phase at its four prices, and the gradients of what learns."""
    with prepared(name) as (dense, adaptive, samples, settings):
        settings = dataclasses.replace(settings, precision=precision)
        phase = phase_of(dense, adaptive.train(), samples, settings, 1)
        parts = 0
        for part in phase.losses(0, torch.Generator().manual_seed(0)):
            assert (part.device.type, part.dtype) == (GPU, torch.float32) and part.ndim == 0
            part.backward()  # type: ignore[no-untyped-call]
            parts += 1
        assert parts == settings.prices
        learned = [parameter.grad for parameter in adaptive.parameters() if parameter.grad is not None]
        assert len(learned) > 20 and {gradient.device.type for gradient in learned} == {GPU}


def layer_steps(name: str) -> None:
    """A step of the learners of a block and one of its gate, from activations in memory."""
    with prepared(name) as (dense, adaptive, _, settings):
        width = int(dense.config.width)
        kept = Activations({number: np.ones((40, width), np.float16) for number in range(len(dense.blocks))})
        pairs = [(ffn_of(old), adaptive_of(new)) for old, new in zip(dense.blocks, adaptive.blocks, strict=True)]
        quantiles = gain_quantiles(pairs, kept, settings)
        assert quantiles.device.type == GPU
        for phase in (distil_phase(0, *pairs[0], kept, settings), gate_phase(0, *pairs[0], kept, quantiles, settings)):
            phase.trained.train()
            [loss] = phase.losses(0, torch.Generator().manual_seed(0))
            loss.backward()  # type: ignore[no-untyped-call]
            assert {weight.grad.device.type for weight in phase.trained.parameters() if weight.grad is not None} == {
                GPU
            }


def first_fit(name: str) -> None:
    """The least squares that early maps start at, and the activations that are kept."""
    with prepared(name) as (dense, adaptive, samples, _):
        with torch.no_grad():
            fit = first_maps.LeastSquares(4, 4, torch.device(GPU))
            fit.add(torch.ones(3, 4, device=GPU), torch.ones(3, 4, device=GPU))
            with mock.patch.object(first_maps.LeastSquares, "write_to", autospec=True) as written:
                first_maps.fit_first_maps(adaptive.eval(), samples)
            assert written.call_count == 1
            fit.write_to(nn.Linear(4, 4, device=GPU))
            batch = activations.moved(samples.batch(np.arange(4)), activations.device_of(dense))
            reached = activations.layer_inputs(dense, batch)
        assert {inputs.ffn.device.type for inputs in reached} == {GPU}


def in_bfloat16(name: str) -> None:
    """The joint step in autocast on the device: layers compute in bfloat16, gates and losses in float32."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def look(module: nn.Module, _: Any, result: torch.Tensor) -> None:
        seen[isinstance(parents.get(id(module)), PriceGate | ArgmaxGate)].add(result.dtype)

    parents: dict[int, nn.Module] = {}

    def watched(dense: Network, adaptive: Network, *rest: Any) -> Any:
        for part in [*dense.modules(), *adaptive.modules()]:
            for child in part.children():
                parents[id(child)] = part
                if isinstance(child, nn.Linear):
                    child.register_forward_hook(look)
        return joint_phase(dense, adaptive, *rest)

    joint_step(name, precision="bfloat16", phase_of=watched)
    assert torch.bfloat16 in seen[False] and seen[True] == {torch.float32}, seen


def give_autocast() -> list[torch.library.Library]:
    """Autocast as CUDA has it, of the products that networks here are made of."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    library = torch.library.Library("aten", "IMPL")

    def cast(op: Any) -> Callable[..., Any]:
        def run(*tensors: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(keys):
                return op(*(None if tensor is None else tensor.to(torch.bfloat16) for tensor in tensors))

        return run

    for name in ("linear", "matmul", "bmm", "mm"):
        library.impl(name, cast(getattr(torch.ops.aten, name).default), "AutocastPrivateUse1")
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [library, others]


def broken(case: Callable[[], None], module: Any, name: str, made: Callable[..., Any]) -> Callable[[], None]:
    """A case in which something is made on the CPU."""

    def run() -> None:
        with mock.patch.object(module, name, made):
            case()

    return run


def forgetful(_: Network, used: list[torch.Tensor]) -> torch.Tensor:
    """As ``_mean_utilisation``, its weights on the CPU."""
    weights = torch.ones(len(used))
    return (torch.stack(used) * (weights / weights.sum())[:, None]).sum(0)


def cases() -> dict[str, Callable[[], None]]:
    """By name; those that begin with ``broken`` must fail, all others must not."""
    found: dict[str, Callable[[], None]] = {}
    for name in (*OWN, *PRETRAINED):
        found[f"joint {name}"] = lambda name=name: joint_step(name)  # type: ignore[misc]
        if name in PRETRAINED or "acm" in OWN[name][1]:
            found[f"layer {name}"] = lambda name=name: layer_steps(name)  # type: ignore[misc]
    # Where tokens are padding or dropped, evaluation needs to know how many.
    found["maps"] = lambda: first_fit("vectors of pictures")
    for name in ("texts, all", "pictures, all", "pictures, routes", "bert"):
        found[f"bfloat16 {name}"] = lambda name=name: in_bfloat16(name)  # type: ignore[misc]
    step, layer = (lambda: joint_step("texts, all")), (lambda: layer_steps("texts, all"))
    stay = lambda tensors, _: dict(tensors)  # noqa: E731
    found["broken: a batch that stays"] = broken(step, adapting, "moved", stay)
    found["broken: weights of a loss"] = broken(step, priced_losses, "_mean_utilisation", forgetful)
    full = torch.full
    found["broken: prices"] = broken(step, torch, "full", lambda *args, **_: full(*args))
    from adaptrt.models.training import layer_phases

    found["broken: activations that stay"] = broken(layer, layer_phases, "device_of", lambda _: torch.device("cpu"))
    return found


def main(wanted: list[str]) -> None:
    """Run the cases whose names begin with one of these words."""
    backend: Any = types.ModuleType(GPU)
    backend.is_available, backend.is_initialized = (lambda: False), (lambda: True)  # nothing is ever put on it
    backend.current_device, backend.device_count = (lambda: 0), (lambda: 0)
    backend._is_in_bad_fork, backend.manual_seed_all = (lambda: False), (lambda _: None)
    backend.get_amp_supported_dtype = lambda: [torch.bfloat16]
    _setup_privateuseone_for_python_backend(GPU, backend)
    autocast = give_autocast()
    assert autocast  # it lasts as long as it is held
    said: dict[str, str | None] = {}
    for name, run in cases().items():
        if not name.startswith(tuple(wanted)):
            continue
        try:
            run()
            said[name] = None
        except Exception as error:
            first = str(error).splitlines()[0] if str(error) else ""
            said[name] = f"{type(error).__name__}: {first}"
            traceback.print_exc()
    print(json.dumps(said), flush=True)
    # Autograd's thread of a device that is none is not always ended in time: torch would then end the process by abort.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
