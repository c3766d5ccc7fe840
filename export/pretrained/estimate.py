"""What adapting a network would give, before it is trained: its real graphs, with knobs for every wanted budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy.typing as npt
from torch import Tensor

from adaptrt.export.calibration.calibrate import Progress
from adaptrt.export.description import describe_bundle
from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.exporter import DENSE_FILE
from adaptrt.export.graph.repeated_blocks import BlockGraphs
from adaptrt.export.graph.saved_graph import save_graph
from adaptrt.export.graph.stage_files import save_stages, trace_stages
from adaptrt.export.graph.trace import trace_dense
from adaptrt.export.parity.reference import GOLDEN_FILE, encode_golden, run_reference
from adaptrt.export.pretrained.adapt_folder import FIELDS, chosen_families
from adaptrt.export.pretrained.random_decisions import with_random_decisions
from adaptrt.export.pretrained.work_search import EXITS_FROM, Setting, WorkSearch
from adaptrt.export.staging import write_file
from adaptrt.export.targets.build import build_target
from adaptrt.export.targets.int8_scales import STATIC
from adaptrt.export.targets.target_builder import BuildSettings
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.folder import LoadedModel
from adaptrt.runtime.backends.backend_table import BACKENDS, DEFAULT_BACKEND
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, Dense, encode_bundle
from adaptrt.runtime.bundle.schema import THRESHOLDS_KNOB
from adaptrt.runtime.device.processors import granted_processors
from adaptrt.runtime.loading import open_bundle

SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)
"""Budgets that are estimated, as shares of the dense work."""
INT8_TARGET, INT8 = BACKENDS[DEFAULT_BACKEND].prepared, "int8"
"""What the last candidate is built for beside its own float32."""

_GOLDEN_ROWS = 512  # tokens whose activations say the scales of int8
_NAMES = {field: name for name, field in FIELDS.items()}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """One way to adapt a network, as a bundle that is not calibrated.

    Attributes:
        families: By their names for users.
        folder: Of the bundle.
        bundle: Its content.
        settings: One for each wanted share, in their order.
        full_by_dense: Whether a finished bundle answers full budgets by the dense model's graph. Of what is built
            in int8 that is known when its quality is.
        int8: Whether its graphs are there in int8, too.
        no_int8: Why not, if that was asked for; else "".
    """

    families: tuple[str, ...]
    folder: Path
    bundle: Bundle
    settings: tuple[Setting, ...]
    full_by_dense: bool = False
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
    apart: bool = True,
    exits_from: float = EXITS_FROM,
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
        apart: With every family by itself, too, not with all of them only.
        exits_from: The share below which exits save, too, beside other families.
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
    blocks = BlockGraphs()  # families leave most blocks alike
    wanted = alone + together if apart else (together or alone)
    for fields in wanted:
        names = tuple(_NAMES[field] for field in fields)

        def tell(what: str, share: float, title: str = "+".join(names)) -> None:
            progress(f"{title}: {what}", share)

        tell("adapting", 0.0)
        network = with_random_decisions(dense, {field: chosen[field] for field in fields}, inputs)
        place = folder / "+".join(names)
        bundle = _write_bundle(source, network, place, blocks, with_dense=not candidates, progress=tell)
        tell("drawing decisions", 0.0)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        # Nothing is timed yet: all processors may help.
        search = WorkSearch(open_bundle(place, bundle, threads=granted_processors().threads), arrays, names, exits_from)
        settings = []
        for number, share in enumerate(shares):
            settings.append(search.find(share))
            tell("drawing decisions", (number + 1) / len(shares))
        by_dense = network.made_from_dense or (network.dense_gives_everything and len(bundle.stages) > 1)
        candidate = Candidate(names, place, bundle, tuple(settings), by_dense)
        if fields == wanted[-1]:
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
    source: LoadedModel,
    network: AdaptableNetwork,
    folder: Path,
    blocks: BlockGraphs,
    *,
    with_dense: bool,
    progress: Progress,
) -> Bundle:
    """Trace and write a network as an export does, without proving or calibrating anything."""
    folder.mkdir(parents=True)
    stages, ops = trace_stages(network, debug=False, progress=progress, blocks=blocks)
    dense = Dense(macs=network.dense_macs(), parameters=network.dense_parameters())
    if with_dense:
        assert source.dense is not None
        progress("tracing the dense model", 0.0)
        saved = save_graph(trace_dense(source.dense, blocks=blocks), folder / DENSE_FILE)
        dense = msgspec.structs.replace(dense, file=saved.file, sha256=saved.sha256, external_data=saved.external_data)
    adapted = LoadedModel(source.name, network, source.dense, None)
    bundle = describe_bundle(adapted, stages, save_stages(stages, folder), ops, dense)
    write_file(folder / BUNDLE_FILE, encode_bundle(bundle))
    return bundle
