"""What adapting a network would give, before it is trained: its real graphs, with knobs for every wanted budget."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from adaptrt.export.calibration.calibrate import Progress
from adaptrt.export.calibration.exit_thresholds import exits_taken, threshold_range
from adaptrt.export.description import describe_bundle
from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import DENSE_FILE
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.parity.reference import GOLDEN_FILE, encode_golden, run_reference
from adaptrt.export.pretrained.adapt_folder import FIELDS, chosen_families
from adaptrt.export.pretrained.random_decisions import with_random_decisions
from adaptrt.export.staging import write_file
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.int8_scales import STATIC
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import LoadedModel
from adaptrt.runtime import AdaptiveModel
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, Dense, encode_bundle
from adaptrt.runtime.bundle.schema import CONFIDENCE_OUTPUT, MACS_OUTPUT, PRICE_KNOB, THRESHOLDS_KNOB, KnobValue
from adaptrt.runtime.loading import open_bundle

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Budgets that are estimated, as shares of the dense work."""
TOLERANCE = 0.05
"""A budget is met if the work is no further from it, in shares of the dense work."""

INT8_TARGET, INT8 = BACKENDS[DEFAULT_BACKEND].prepared, "int8"
"""What the last candidate is built for beside its own float32."""

_WITHOUT_EXITS = 0.5  # share of the work down to which bundles with other families do without early exits
_GOLDEN_ROWS = 512  # tokens whose activations say the scales of int8
_CLOSE = 0.01  # where searches end
_TRIES = 8
_NAMES = {field: name for name, field in FIELDS.items()}

Array = npt.NDArray[Any]
Knobs = dict[str, KnobValue]


@dataclass(frozen=True)
class Setting:
    """Knobs of one budget.

    Attributes:
        wanted: Share of the dense work that was asked for.
        share: That the inputs take in the mean.
        knobs: Values to feed; those not named stand at their defaults.
    """

    wanted: float
    share: float
    knobs: Knobs

    @property
    def reachable(self) -> bool:
        """Whether the work is the wanted one; otherwise it is as near as can be."""
        return abs(self.share - self.wanted) <= TOLERANCE


@dataclass(frozen=True)
class Candidate:
    """One way to adapt a network, as a bundle that is not calibrated.

    Attributes:
        families: By their names for users.
        folder: Of the bundle.
        bundle: Its content.
        settings: One for each wanted share, in their order.
        int8: Whether its graphs are there in int8, too.
        no_int8: Why not, if that was asked for; else "".
    """

    families: tuple[str, ...]
    folder: Path
    bundle: Bundle
    settings: tuple[Setting, ...]
    int8: bool = False
    no_int8: str = ""

    @property
    def name(self) -> str:
        """Its families in one word."""
        return "+".join(self.families)


def make_candidates(
    source: LoadedModel,
    inputs: dict[str, Tensor],
    folder: Path,
    *,
    families: tuple[str, ...] | None = None,
    shares: Sequence[float] = SHARES,
    threads: int = 1,
    progress: Progress = lambda _what, _share: None,
) -> list[Candidate]:
    """Adapt, trace and write a network with every family, and with all of them; the first bundle has a dense graph.

    The last one is also built in int8.

    Args:
        source: The dense network.
        inputs: Random ones by name, ``[B, ...]``, on which the shares are met.
        folder: Where to write.
        families: Their names; None: all that the network can have.
        shares: Of the dense work.
        threads: Threads that one operator may use.
        progress: Told what is being done.

    Raises:
        ExportError: A family does not fit, or none does.
    """
    dense = source.dense
    assert isinstance(dense, AdaptableNetwork)
    chosen = {field: family for field, family in chosen_families(dense, families, None).items() if family is not None}
    if not chosen:
        raise ExportError(
            f"got {source.name!r}, which can have none of the families {', '.join(_NAMES.values())}; use a deeper "
            "network, or one whose FFN width is a multiple of 4"
        )
    alone = [(field,) for field in chosen]
    together = [tuple(chosen)] if len(chosen) > 1 else []
    candidates: list[Candidate] = []
    for fields in alone + together:
        names = tuple(_NAMES[field] for field in fields)

        def tell(what: str, share: float, title: str = "+".join(names)) -> None:
            progress(f"{title}: {what}", share)

        tell("adapting", 0.0)
        network = with_random_decisions(dense, {field: chosen[field] for field in fields}, inputs)
        place = folder / "+".join(names)
        bundle = _write_bundle(source, network, place, with_dense=not candidates, progress=tell)
        tell("drawing decisions", 0.0)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        search = _Search(open_bundle(place, bundle, threads=threads), arrays, names)
        settings = []
        for number, share in enumerate(shares):
            settings.append(search.find(share))
            tell("drawing decisions", (number + 1) / len(shares))
        candidate = Candidate(names, place, bundle, tuple(settings))
        if fields == (alone + together)[-1]:
            tell("building in int8", 0.0)
            candidate = _with_int8(candidate, network, arrays)
        candidates.append(candidate)
    return candidates


def _with_int8(candidate: Candidate, network: AdaptableNetwork, inputs: Mapping[str, Array]) -> Candidate:
    """The candidate with its graphs in int8, or the reason why there are none."""
    samples = next(iter(inputs.values())).shape[0]
    few = min(samples, -(-_GOLDEN_ROWS // max(network.tokens or 1, 1)))
    some = {name: array[:few] for name, array in inputs.items()}
    of_host = {THRESHOLDS_KNOB}
    runs = [
        run_reference(network, some, {name: value for name, value in own.knobs.items() if name not in of_host})
        for own in (candidate.settings[0], candidate.settings[len(candidate.settings) // 2])
    ]
    try:
        write_file(candidate.folder / GOLDEN_FILE, encode_golden(runs))
        settings = BuildSettings(INT8_TARGET, INT8, max_quality_drop=1.0, activations=STATIC)  # quality is random
        build_target(candidate.folder, settings)
    except (ExportError, ParityError) as error:
        return dataclasses.replace(candidate, no_int8=str(error))
    return dataclasses.replace(candidate, int8=True)


def _write_bundle(
    source: LoadedModel, network: AdaptableNetwork, folder: Path, *, with_dense: bool, progress: Progress
) -> Bundle:
    """Trace and write a network as an export does, without proving or calibrating anything."""
    folder.mkdir(parents=True)
    stages, ops = trace_stages(network, debug=False, progress=progress)
    dense = Dense(macs=network.dense_macs(), parameters=network.dense_parameters())
    if with_dense:
        assert source.dense is not None
        progress("tracing the dense model", 0.0)
        saved = save_graph(trace_dense(source.dense), folder / DENSE_FILE)
        dense = msgspec.structs.replace(dense, file=saved.file, sha256=saved.sha256, external_data=saved.external_data)
    adapted = LoadedModel(source.name, network, source.dense, None)
    bundle = describe_bundle(adapted, stages, save_stages(stages, folder), ops, dense)
    write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    return bundle


class _Search:
    """Finds knobs at which a bundle's inputs take a wanted share of the dense work.

    Families with a price divide the saving evenly: of n of them each is to bring the work down to the n-th root. Beside
    them exits save nothing down to half of the work, and below it as much as all others together: so calibration used
    them, as answers of early heads are worth less.
    """

    def __init__(self, model: AdaptiveModel, inputs: Mapping[str, Array], families: Sequence[str]) -> None:
        self._model, self._inputs = model, inputs
        self._exits = "exits" in families
        knobs = {knob.name: knob for knob in model.bundle.knobs}
        priced = [name for name in ("acm", "routes", "tokens") if name in families]
        names = [PRICE_KNOB, PruningConfig.own_price][: len(priced)]
        self._off: Knobs = dict.fromkeys(names, 0.0)
        self._curves = [
            PriceCurve(functools.partial(self._work_at, name), float(knobs[name].maximum or 1.0)) for name in names
        ]

    def find(self, wanted: float) -> Setting:
        """The knobs of a share; where it cannot be met, those that come nearest."""
        best = Setting(wanted, self._last(self._stages(self._off)), dict(self._off))
        if wanted >= 1.0:  # everything runs, which with gates and early heads is a little more than the dense work
            return best
        # Below half of the work exits save as much more as the priced families do.
        priced = wanted if not self._exits or wanted >= _WITHOUT_EXITS else (wanted * _WITHOUT_EXITS) ** 0.5
        share_of_each = priced ** (1 / max(len(self._curves), 1))
        for _ in range(_TRIES):
            knobs: Knobs = dict(self._off)
            for name, curve in zip(self._off, self._curves, strict=True):
                knobs[name] = curve.price_at(share_of_each)
            setting = self._with_exits(wanted, knobs)
            if abs(setting.share - wanted) < abs(best.share - wanted):
                best = setting
            if not self._curves or abs(best.share - wanted) <= _CLOSE:
                break
            share_of_each = min(1.5, share_of_each * (wanted / setting.share) ** (1 / len(self._curves)))
        return best

    def _work_at(self, name: str, price: float) -> float:
        """Work at one price, the other families doing everything."""
        return self._last(self._stages({**self._off, name: price}))

    def _stages(self, knobs: Knobs) -> list[dict[str, Array]]:
        return self._model.run_stages(self._inputs, knobs=knobs)

    @staticmethod
    def _last(stages: Sequence[Mapping[str, Array]]) -> float:
        return float(stages[-1][MACS_OUTPUT].mean(dtype=np.float64))

    def _with_exits(self, wanted: float, knobs: Knobs) -> Setting:
        """Let samples leave, where they can, for what is left to save at these prices."""
        stages = self._stages(knobs)
        if not self._exits:
            return Setting(wanted, self._last(stages), knobs)
        costs = np.stack([stage[MACS_OUTPUT] for stage in stages]).astype(np.float64)
        sure = np.stack([stage.get(CONFIDENCE_OUTPUT, np.zeros(costs.shape[1], np.float32)) for stage in stages])
        thresholds = thresholds_at(sure, costs, wanted)
        exits = exits_taken(sure, thresholds)
        share = float(costs[exits, np.arange(costs.shape[1])].mean())
        return Setting(wanted, share, {**knobs, THRESHOLDS_KNOB: [float(number) for number in thresholds]})


class PriceCurve:
    """Work over one price, measured where it is asked for; it never rises.

    Args:
        work_at: The share of the dense work at a price.
        maximum: The highest price.
    """

    def __init__(self, work_at: Callable[[float], float], maximum: float) -> None:
        self._work_at = work_at
        self._maximum = maximum
        self._points: list[tuple[float, float]] = []

    def price_at(self, wanted: float) -> float:
        """The price of a share, found by interpolation and bisection in turn; a limit where it is out of reach."""
        if not self._points:
            self._points = [(price, self._work_at(price)) for price in (0.0, self._maximum)]
        for attempt in range(_TRIES):
            (low, most), (high, least) = self._around(wanted)
            if wanted >= most or wanted <= least:
                return low if wanted >= most else high
            if min(most - wanted, wanted - least) <= _CLOSE / 2:
                return low if most - wanted < wanted - least else high
            part = (most - wanted) / (most - least) if attempt % 2 == 0 else 0.5
            price = low + (high - low) * part
            self._points.append((price, self._work_at(price)))
            self._points.sort()
        return min(self._points, key=lambda point: abs(point[1] - wanted))[0]

    def _around(self, wanted: float) -> tuple[tuple[float, float], tuple[float, float]]:
        """The measured points between which the share lies; where it is out of reach, the first or the last two."""
        pairs = list(itertools.pairwise(self._points))
        return next((pair for pair in pairs if pair[1][1] <= wanted), pairs[-1])


def thresholds_at(confidence: Array, costs: Array, wanted: float) -> npt.NDArray[np.float32]:
    """Exit thresholds at which the mean cost of samples is nearest to a share, samples spread over all exits.

    Args:
        confidence: ``[stages, n]``; the last stage's is not read. Samples leave in its order, whatever it is.
        costs: Share of the dense work up to each stage, ``[stages, n]``.
        wanted: Mean share of the dense work.

    Returns:
        ``[stages - 1]``.
    """
    stages, samples = confidence.shape
    mean_cost = costs.mean(1)
    counts = np.array([c for c in itertools.product(range(samples + 1), repeat=stages - 1) if sum(c) <= samples])
    counts = np.concatenate([counts, samples - counts.sum(1, keepdims=True)], 1)
    distance = np.abs(counts @ mean_cost / samples - wanted)
    near = counts[distance <= max(float(distance.min()) + 1e-9, _CLOSE)] / samples
    evenness = -(near * np.log(np.maximum(near, 1e-9))).sum(1)
    best = np.rint(near[evenness.argmax()] * samples).astype(int)
    least, most = threshold_range(confidence)
    thresholds = np.empty(stages - 1, np.float32)
    left = np.ones(samples, bool)
    for stage in range(stages - 1):
        ranked = np.sort(confidence[stage][left])[::-1]
        leaving = best[stage]
        if leaving == 0:
            thresholds[stage] = most[stage]
        else:
            thresholds[stage] = ranked[leaving] if leaving < len(ranked) else least[stage]
        left &= ~(confidence[stage] > thresholds[stage])
    return thresholds
