"""Where maps of early vectors and of dropped tokens start: at the least squares of what the dense network computes.

An early head's map, of vectors or of a convolutional network's channels to classes, and the one that stands for dropped
tokens are linear in what the dense network computes anyway.
What training would have to find in thousands of small steps is one system of equations, made of some samples.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.token_pruning import PriceSelector
from adaptrt.models.training.devices import CPU, device_of, moved

SAMPLES = 2048
"""Samples that a fit is made of, at most."""
_BATCH = 32
_RIDGE = 1e-3
"""Added to the diagonal, relative to its mean: less than the noise of so many samples."""


class LeastSquares:
    """``y`` of ``x`` by a linear map with an offset, from sums over batches.

    Args:
        inputs: Width of x.
        outputs: Width of y.
        device: Of both.
    """

    def __init__(self, inputs: int, outputs: int, device: torch.device = CPU) -> None:
        self._squares = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=device)
        self._products = torch.zeros(inputs + 1, outputs, dtype=torch.float64, device=device)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Some more rows: ``[n, inputs]`` and ``[n, outputs]``."""
        with_one = torch.cat([x, torch.ones_like(x[:, :1])], 1).double()
        self._squares += with_one.T @ with_one
        self._products += with_one.T @ y.double()

    def write_to(self, linear: nn.Linear) -> None:
        """Make a layer that map."""
        ones = torch.eye(len(self._squares), dtype=torch.float64, device=self._squares.device)
        ridge = _RIDGE * self._squares.diagonal().mean() * ones
        found = torch.linalg.solve(self._squares + ridge, self._products)
        with torch.no_grad():
            linear.weight.copy_(found[:-1].T)
            linear.bias.copy_(found[-1])


@torch.no_grad()
def fit_first_maps(
    adaptive: AdaptableNetwork,
    samples: Samples,
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _share: None,
) -> None:
    """Fit the first maps of exit heads, and every selector's stand-in for dropped tokens.

    Args:
        adaptive: Fresh from ``adapt``: where everything runs it computes what the dense network does.
        samples: Inputs.
        seed: Of the choice of samples.
        progress: Told the share that is done.
    """
    maps = adaptive.first_maps()
    selectors = [s for s in adaptive.modules() if isinstance(s, PriceSelector) and s.stand_in is not None]
    if not maps and not selectors:
        return
    device = device_of(adaptive)
    by_map = [LeastSquares(linear.in_features, linear.out_features, device) for linear in maps]
    width = int(adaptive.config.width) if selectors else 0
    by_selector = [LeastSquares(width, width, device) for _ in selectors]
    batch = min(_BATCH, len(samples))
    batches = samples.order(batch, seed, 0)[: -(-SAMPLES // batch)]
    training = adaptive.training
    adaptive.eval()
    everything = {spec.name: torch.full(spec.shape, spec.default, device=device) for spec in adaptive.knob_specs()}
    if adaptive.prunes_by_price and "token_price" in everything:
        everything["token_price"] = torch.zeros_like(everything["token_price"])
    for number, rows in enumerate(batches):
        with _inputs_of(maps) as vectors, _inputs_of(selectors) as tokens, _results_of(adaptive.blocks[-1]) as last:
            answers = adaptive.run(moved(samples.batch(rows), device), everything).outputs
        answer = next(iter(answers.values()))
        for fit, vector in zip(by_map, vectors, strict=True):
            fit.add(vector, answer)
        if selectors:
            end = adaptive.block_tokens(last[0])
            final = adaptive.head.averaged(end.x, adaptive.norm)
            real = slice(None) if end.valid is None else end.valid.reshape(-1)
            for fit, given in zip(by_selector, tokens, strict=True):
                fit.add(given.x[real], final[real])
        progress((number + 1) / len(batches))
    for fit, linear in zip(by_map, maps, strict=True):
        fit.write_to(linear)
    for fit, selector in zip(by_selector, selectors, strict=True):
        assert selector.stand_in is not None
        fit.write_to(selector.stand_in)
    adaptive.train(training)


@contextlib.contextmanager
def _inputs_of(modules: list[nn.Linear] | list[PriceSelector]) -> Iterator[list]:  # type: ignore[type-arg]
    """The first input of each module within, in their order."""
    found: list = []  # type: ignore[type-arg]
    hooks = [module.register_forward_pre_hook(lambda _module, given: found.append(given[0])) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _results_of(block: nn.Module) -> Iterator[list[object]]:
    """What a block gives."""
    found: list[object] = []
    hook = block.register_forward_hook(lambda _block, _given, result: found.append(result))
    try:
        yield found
    finally:
        hook.remove()
