"""Make a trained dense network adaptive for every price, with that network as the only teacher: no labels.

Phases: hidden units are put in the order of their contribution and divided among learners (``adapt``); each layer is
distilled by itself from activations in a memory map; gates learn what each learner gains; then everything is trained
together, for prices drawn anew in every batch, against the dense network's answers and hidden states.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from adaptrt import write_atomically
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adaptation import adapt
from adaptrt.models.data.samples import Samples
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.network import Network
from adaptrt.models.network_output import NetworkOutput
from adaptrt.models.training import activations, teacher
from adaptrt.models.training.devices import CPU, DeviceError, device_of, moved, on_cpu
from adaptrt.models.training.first_maps import fit_first_maps
from adaptrt.models.training.layer_jobs import InProcess, LayerExecutor, LayerJob, run_jobs
from adaptrt.models.training.layer_phases import adaptive_of, distil_phase, ffn_of, gain_quantiles
from adaptrt.models.training.loss_log import JOINT_FILE, LOG_FILE, SETTINGS_FILE
from adaptrt.models.training.phase import CheckpointError, Progress, Report, parameter_groups
from adaptrt.models.training.priced_losses import draw_shares, learner_losses, price_knobs, selection_losses
from adaptrt.models.training.recipe import autocast
from adaptrt.models.training.steps import StepPhase, run_steps
from adaptrt.models.training.team import ALONE, Team, TeamError
from adaptrt.models.training.time_plan import joint_steps, layer_steps

_CALIBRATION = 256
"""Samples from which contributions of hidden units are taken."""
_COMPARED = 8
"""Samples that tell one run's data from another's."""


@dataclass(frozen=True)
class AdaptSettings:
    """How a network is adapted.

    Attributes:
        acm: How its FFNs are replaced; None: they are not.
        exits: Where exit heads stand; None: at the end only.
        pruning: Where tokens are selected, by price; None: nowhere.
        routed: How FFNs get a small one beside them and a router; None: they do not.
        hours: Time for all phases together; None: the steps below.
        joint_steps: Steps of the joint phase where no time is given.
        distil_steps: Steps in which one block's learners are distilled.
        gate_steps: Steps in which one block's gate is taught.
        tokens: Activations kept of each block.
        batch: Samples per step of the joint phase.
        layer_batch: Tokens per step of the phases by layer.
        prices: Prices per batch; a batch is divided evenly among them.
        joint_rate: Largest learning rate of the joint phase; gates and selectors learn at ten times it.
        layer_rate: Of the phases by layer.
        hidden_weight: Weight of the distance from the dense network's hidden states, relative to their variance.
        exit_weight: Of each early head's distance from the dense network's answer.
        budget_weight: Of the distance of the work from what a price asks for.
        entropy_weight: Of what keeps a gate from giving all tokens the same.
        diversity_weight: Of what rewards a gate that spends more on some samples than on others.
        traffic_weight: Of what keeps a learner from running for a few tokens only.
        weight_decay: AdamW's, in the joint phase.
        seed: Everything random derives from it.
        precision: "float32" or "bfloat16" (autocast; gates stay in float32).
    """

    acm: ACMConfig | None = None
    exits: ExitConfig | None = None
    pruning: PruningConfig | None = None
    routed: RoutedFFNConfig | None = None
    hours: float | None = None
    joint_steps: int = 2000
    distil_steps: int = 100
    gate_steps: int = 60
    tokens: int = activations.TOKENS
    batch: int = 32
    layer_batch: int = 2048
    prices: int = 4
    joint_rate: float = 3e-4
    layer_rate: float = 5e-4
    hidden_weight: float = 0.5
    exit_weight: float = 0.05
    budget_weight: float = 2.0
    entropy_weight: float = 0.01
    diversity_weight: float = 0.02
    traffic_weight: float = 0.02
    weight_decay: float = 0.01
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not any((self.acm, self.exits, self.pruning, self.routed)):
            raise ValueError("got no family, expected ACMs, exits, token pruning or routed FFNs; name one")
        if self.pruning is not None and self.pruning.rule != "price":
            raise ValueError(f"got pruning rule {self.pruning.rule!r}, expected 'price'")
        if self.acm is not None and (self.acm.gate != "price" or self.acm.projections):
            raise ValueError("got ACMs with other gates or in projections, expected price gates in FFNs")
        if self.batch % self.prices:
            raise ValueError(f"got a batch of {self.batch}, expected a multiple of {self.prices} prices")

    @property
    def families(self) -> dict[str, Any]:
        """Configurations by their names here; see ``adapt``."""
        return {"acm": self.acm, "pruning": self.pruning, "exits": self.exits, "routed": self.routed}

    def autocast(self, device: str = "cpu") -> contextlib.AbstractContextManager[Any]:
        """The precision to compute in, on a device of that type."""
        return autocast(self.precision, device)


def adapt_network(
    dense: AdaptableNetwork,
    samples: Samples,
    settings: AdaptSettings,
    folder: Path,
    report: Report,
    executor: LayerExecutor | None = None,
    team: Team = ALONE,
    device: torch.device = CPU,
) -> AdaptableNetwork:
    """Adapt a dense network; an interrupted call goes on where it was if it is made again with the same arguments.

    Args:
        dense: The trained network; it stays as it is.
        samples: Its inputs.
        settings: What to do.
        folder: For checkpoints and activations; made if missing.
        report: Called after every step.
        executor: Where layers are distilled; None: in this process.
        team: Processes that all make this call, each with a folder of its own, and share the joint phase; the first one
            distils the layers and keeps the checkpoints.
        device: Where everything is trained. Checkpoints are of the CPU: a run may go on on another device.

    Returns:
        The adaptive network, in evaluation mode, on the CPU.

    Raises:
        ValueError: The families do not fit the network, or there is less than one batch of samples.
        CheckpointError: The folder's checkpoints are damaged or another run's.
        ActivationError: The disk has no room for activations.
        TrainingError: A loss is not finite, or the time is too short.
        LayerJobError: Other processes or machines do not distil.
        TeamError: There are more processes than prices, or one of them is gone.
        DeviceError: Other processes or machines are to distil layers on a GPU.
    """
    if device != CPU and not isinstance(executor or InProcess(), InProcess):
        raise DeviceError(f"got {device} and other processes that distil layers, expected one of them; leave one out")
    if len(samples) < settings.batch:
        raise ValueError(f"got {len(samples)} samples, expected at least one batch of {settings.batch}; give more")
    if team.size > settings.prices:
        raise TeamError(
            f"got {team.size} processes, expected at most {settings.prices}: each takes some of a batch's prices; "
            "start fewer"
        )
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    run = _described(dense, samples, settings)
    if team.leads:
        refuse_others(dense, samples, settings, folder)
    dense = dense.eval()
    dense.requires_grad_(False)
    torch.manual_seed(settings.seed)
    calibration = samples.batch(samples.order(min(_CALIBRATION, len(samples)), settings.seed, 0)[0])
    adaptive = adapt(dense, calibration, **settings.families)
    adaptive.requires_grad_(True)
    if device != CPU:
        dense = copy.deepcopy(dense).to(device)  # the caller's stays where it is
        adaptive.to(device)
    for part in adaptive.fixed_parts():
        part.requires_grad_(False)
    if team.leads and not (folder / JOINT_FILE).exists():
        begun = time.monotonic()

        def fitted(share: float) -> None:
            left = (time.monotonic() - begun) * (1 - share) / max(share, 1e-3)
            report(Progress("first maps", round(1000 * share), 1000, math.nan, None, left))

        fit_first_maps(adaptive, samples, seed=settings.seed, progress=fitted)
    tried = partial(joint_phase, dense, adaptive, samples, settings, 1, team)
    steps = joint_steps(settings, tried, adaptive, samples, folder, started, team)
    log: dict[str, list[tuple[int, float]]] = {}
    if team.leads:
        write_atomically(folder / SETTINGS_FILE, run)
        if settings.acm is not None:
            assert isinstance(dense, Network) and isinstance(adaptive, Network)  # others refuse this family
            log.update(_by_layer(dense, adaptive, samples, settings, folder, report, executor or InProcess()))
    if team.size > 1:
        adaptive.load_state_dict(team.share(on_cpu(adaptive.state_dict()) if team.leads else {}))
    joint = joint_phase(dense, adaptive, samples, settings, steps, team)
    with team.own_threads():
        log["joint"] = run_steps(joint, seed=settings.seed, checkpoint=folder / JOINT_FILE, report=report, team=team)
    if team.leads:
        write_atomically(folder / LOG_FILE, (json.dumps(log) + "\n").encode())
    return adaptive.to(CPU).eval()


def _described(dense: AdaptableNetwork, samples: Samples, settings: AdaptSettings) -> bytes:
    """What tells one run from another: its settings, and of the network and the samples a sum over some of them."""
    weights = list(dense.parameters())
    parts = [weights[0], weights[-1], *samples.batch(np.arange(min(_COMPARED, len(samples)))).values()]
    summed = [crc32(np.ascontiguousarray(part.detach().numpy()).tobytes()) for part in parts]
    return json.dumps(
        {**dataclasses.asdict(settings), "samples": len(samples), "content": summed}, indent=2, sort_keys=True
    ).encode()


def refuse_others(dense: AdaptableNetwork, samples: Samples, settings: AdaptSettings, folder: Path) -> None:
    """Refuse a folder with the checkpoints of another run than these arguments of ``adapt_network`` make.

    Raises:
        CheckpointError: It is one.
    """
    path = folder / SETTINGS_FILE
    if path.exists() and path.read_bytes() != _described(dense, samples, settings):
        raise CheckpointError(
            f"{folder} holds checkpoints of a run with other settings, another model or other data; remove it, or name "
            "another --work folder, to start afresh"
        )


def _by_layer(
    dense: Network,
    adaptive: Network,
    samples: Samples,
    settings: AdaptSettings,
    folder: Path,
    report: Report,
    executor: LayerExecutor,
) -> dict[str, list[tuple[int, float]]]:
    """Distil every FFN's learners, then teach the gates; each block by itself. Gives the losses by phase."""
    begun = time.monotonic()

    def recorded(share: float) -> None:
        left = (time.monotonic() - begun) * (1 - share) / max(share, 1e-3)
        report(Progress("activations", round(1000 * share), 1000, math.nan, None, left))

    kept = activations.record(
        folder / "activations", dense, samples, tokens=settings.tokens, seed=settings.seed, progress=recorded
    )
    pairs = [(ffn_of(old), adaptive_of(new)) for old, new in zip(dense.blocks, adaptive.blocks, strict=True)]
    first = partial(distil_phase, 0, *pairs[0], kept, settings)
    settings = layer_steps(settings, first, pairs[0][1], len(pairs), folder)
    with executor:
        jobs = [LayerJob(number, *pair, settings) for number, pair in enumerate(pairs)]
        log = run_jobs(jobs, kept, folder, executor, report)
        quantiles = gain_quantiles(pairs, kept, settings)
        jobs = [LayerJob(number, *pair, settings, quantiles) for number, pair in enumerate(pairs)]
        return {**log, **run_jobs(jobs, kept, folder, executor, report)}


def joint_phase(
    dense: AdaptableNetwork,
    adaptive: AdaptableNetwork,
    samples: Samples,
    settings: AdaptSettings,
    steps: int,
    team: Team = ALONE,
) -> StepPhase:
    """Everything together: every batch is divided among prices, and each part follows the dense network.

    Args:
        dense: The teacher, in evaluation mode.
        adaptive: What learns.
        samples: Inputs of both.
        settings: Weights of the losses.
        steps: Number of steps.
        team: Processes that train together, which take the prices of a batch in turn.
    """
    order_of = lru_cache(maxsize=1)(
        partial(samples.order, settings.batch, settings.seed)
    )  # of one pass after the other
    per_pass = len(order_of(0))

    group = settings.batch // settings.prices
    each = dataclasses.replace(settings, batch=group, prices=1)
    device = device_of(adaptive)

    def losses(step: int, generator: torch.Generator) -> Iterator[Tensor]:
        """One part for each price: small batches stay in the cache, and need a quarter of the memory."""
        rows = order_of(step // per_pass)[step % per_pass]
        places, shares, noise = _drawn(settings, adaptive, generator)
        for number, place in enumerate(places):
            if not team.takes(number):
                continue
            torch.manual_seed(noise + number)  # whichever process does it
            inputs = moved(samples.batch(rows[place * group : (place + 1) * group]), device)
            share, kept = (torch.full((group,), own, device=device) for own in shares[number])
            yield _loss_at(dense, adaptive, inputs, each, share, kept) / settings.prices

    heads = [] if settings.exits is None else adaptive.exit_modules()
    groups = parameter_groups(adaptive, settings.joint_rate, gate_rate=10 * settings.joint_rate, new=heads)
    return StepPhase("joint", adaptive, groups, steps, losses, settings.weight_decay)


def _drawn(
    settings: AdaptSettings, adaptive: AdaptableNetwork, generator: torch.Generator
) -> tuple[list[int], list[tuple[float, float]], int]:
    """What is random in a batch, on whatever device it runs.

    Returns:
        Which part of the batch runs at each price; the shares of learners and of tokens that each asks for; a seed.
    """
    # Which samples run at which price is drawn: texts of a batch are in order of length, groups of about one.
    places = torch.randperm(settings.prices, generator=generator)
    share, kept = draw_shares(settings, adaptive, settings.prices, generator)
    both = (share < 1) & (kept < 1)  # their product is about the work: roots spread it as evenly as one alone
    share, kept = torch.where(both, share.sqrt(), share), torch.where(both, kept.sqrt(), kept)
    noise = int(torch.randint(2**62, (), generator=generator))
    return places.tolist(), list(zip(share.tolist(), kept.tolist(), strict=True)), noise


def _loss_at(
    dense: AdaptableNetwork,
    adaptive: AdaptableNetwork,
    inputs: dict[str, Tensor],
    settings: AdaptSettings,
    share: Tensor,
    kept: Tensor,
) -> Tensor:
    """The loss of some samples that all run at one price."""
    knobs = price_knobs(settings, adaptive, share, kept)  # stages read those that they have
    with settings.autocast(share.device.type):
        with torch.no_grad(), teacher.block_tokens(dense) as wanted_tokens:
            wanted = dense.run(inputs, {})
        with teacher.block_tokens(adaptive) as tokens:
            out = adaptive.run(inputs, knobs)
    real = wanted_tokens[-1].valid
    total = _emphasised(teacher.distance(out.outputs, wanted.outputs, real))
    total = total + settings.hidden_weight * teacher.hidden_distance(tokens, wanted_tokens)
    total = total + _exit_losses(out, wanted, real, settings)
    if out.decisions:
        total = total + learner_losses(settings, adaptive, out, share)
    if settings.pruning is not None:
        total = total + selection_losses(settings, adaptive, out, kept)
    return total


def _emphasised(distance: Tensor) -> Tensor:
    """A distance whose logarithm is descended, from 0 at none.

    Distances at small budgets are many times those at large ones, and would decide where the weights go. With the
    logarithm a percent less of any distance is worth the same, whatever the budget, down to about 1e-3.
    """
    return 0.15 * (distance / 1e-3).log1p()


def _exit_losses(out: NetworkOutput, wanted: NetworkOutput, real: Tensor | None, settings: AdaptSettings) -> Tensor:
    """Early heads follow the dense network's last one; certainties learn how near their heads come."""
    total = torch.zeros(())
    for stage in out.stages[:-1]:
        total = total + settings.exit_weight * _emphasised(teacher.distance(stage.outputs, wanted.outputs, real))
    for stage in out.stages:
        if stage.certainty is not None:
            near = teacher.likeness(stage.outputs, wanted.outputs, real).detach()
            total = total + 0.1 * functional.binary_cross_entropy_with_logits(stage.certainty.float(), near)
    return total
