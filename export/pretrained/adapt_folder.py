"""A transformers folder and some data become a folder with an adaptive network, ready to export."""

from __future__ import annotations

import dataclasses
import json
import shutil
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from adaptrt import write_atomically
from adaptrt.export.description import input_specs
from adaptrt.export.errors import ExportError
from adaptrt.export.preprocessing.folder import Preprocessing, read_preprocessing
from adaptrt.export.pretrained.samples import Prepared, make_samples
from adaptrt.models.adaptable_network import AdaptableNetwork
from adaptrt.models.adaptation import count_work_for
from adaptrt.models.adapters.pretrained.hub import checkpoint_folder
from adaptrt.models.adapters.pretrained.load import load_pretrained
from adaptrt.models.adapters.pretrained.preprocessing_files import copy_preprocessing
from adaptrt.models.data.files import RawData, classes_of, read_files, require_there
from adaptrt.models.data.samples import Samples
from adaptrt.models.data.split import FOLLOWS_DENSE, DataError
from adaptrt.models.families.acm import ACMConfig
from adaptrt.models.families.exit_head import ExitConfig
from adaptrt.models.families.family import Family
from adaptrt.models.families.routed_ffn import RoutedFFNConfig
from adaptrt.models.families.token_pruning import PruningConfig
from adaptrt.models.folder import ADAPTIVE, CONFIG, PREPROCESSING, SAMPLES, save_model
from adaptrt.models.network import Network
from adaptrt.models.training.adapting import AdaptSettings, adapt_network, refuse_others
from adaptrt.models.training.devices import CPU
from adaptrt.models.training.layer_jobs import InProcess, LayerExecutor
from adaptrt.models.training.loss_log import ADAPTED_FILE, LOG_FILE
from adaptrt.models.training.peak_memory import peak_memory
from adaptrt.models.training.phase import Report
from adaptrt.models.training.team import ALONE, Team
from adaptrt.runtime.bundle.bundle_file import Axis

FIELDS = {"acm": "acm", "exits": "exits", "tokens": "pruning", "routes": "routed"}
"""Families as users name them, and their fields in the settings of adapting."""
FAMILIES = tuple(FIELDS)
_KINDS: dict[str, type[Family]] = {
    "acm": ACMConfig,
    "exits": ExitConfig,
    "tokens": PruningConfig,
    "routes": RoutedFFNConfig,
}
_USUAL = ("acm", "exits", "tokens")
"""What a network gets that asks for nothing: routed FFNs replace what ACMs replace."""
_HELD_OUT = 1024
"""Samples for calibration, and as many for the test, at most; a tenth each of fewer."""
_HELD_OUT_VECTORS = 512
"""Where answers are vectors: how near one is varies less than whether a class is right."""
_LABEL_BYTES = 64_000_000
"""Of answers for every token: fewer samples are held out then."""
_NARROW = 192
"""Width below which two learners are the default: small ones cost more than they save."""

_COPIED_AT_ONCE = 64

Tell = Callable[[str, float], None]


@dataclass(frozen=True)
class AdaptRequest:
    """What is asked for.

    Attributes:
        model: Folder of the checkpoint, or its name on the hub.
        data: File or folder of samples.
        output: Folder of the adaptive network.
        work: For checkpoints, activations and memory maps.
        families: Of ``FAMILIES``; None: all that the network's task can have.
        learners: Of each ACM; None: 4, or 2 in narrow networks.
        task: As Optimum names it; None: the checkpoint's.
        length: Most tokens of a text; None: as the folder says.
        text_column: Of tables.
        label_column: Of tables.
        skip_broken: Leave out what cannot be read.
        executor: Where layers are distilled.
        device: Where it is trained.
        made_of: What the checkpoint is called; empty: as its folder.
        settings: Of the training; its families are not read.
    """

    model: str
    data: Path
    output: Path
    work: Path
    families: tuple[str, ...] | None = None
    learners: int | None = None
    task: str | None = None
    length: int | None = None
    text_column: str | None = None
    label_column: str | None = None
    skip_broken: bool = False
    executor: LayerExecutor = dataclasses.field(default_factory=InProcess)
    device: torch.device = CPU
    made_of: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class AdaptReport:
    """What was made.

    Attributes:
        folder: With the network.
        task: What it is for.
        samples: It was adapted on.
        held_out: Kept for calibration, and for the test.
        skipped: What was said of items that could not be read.
        cut: Items that were longer than the network takes.
        labelled: Whether the data had labels.
        families: That it has.
        peak_memory: Bytes that this process held at most; None where the system does not say.
    """

    folder: Path
    task: str
    samples: int
    held_out: int
    skipped: tuple[str, ...]
    cut: int
    labelled: bool
    families: tuple[str, ...]
    peak_memory: int | None


def adapt_folder(
    request: AdaptRequest, report: Report, tell: Tell = lambda _what, _share: None, team: Team = ALONE
) -> AdaptReport:
    """Adapt a checkpoint; an interrupted call goes on where it was if it is made again.

    Args:
        request: What is asked for.
        report: Told of every step of training.
        tell: Told of what comes before and after it.
        team: Processes that all make this call; the first one writes the folder.

    Raises:
        AdaptrtError: The checkpoint, the data, or the families do not fit, or something cannot be written.
    """
    if not team.leads:  # what one process keeps is not the others'
        request = dataclasses.replace(request, work=request.work / f"process{team.rank}")
    _check_output(request.output)
    require_there(request.data)
    model = checkpoint_folder(request.model)
    tell("loading the model", 0.0)
    source = load_pretrained(model, task=request.task, length=request.length)
    dense = source.model
    assert isinstance(dense, AdaptableNetwork)
    families = chosen_families(dense, request.families, request.learners)
    settings = AdaptSettings(**{**request.settings, **families})
    request.work.mkdir(parents=True, exist_ok=True)
    files = request.work / PREPROCESSING
    copy_preprocessing(model, files)
    tell("reading the data", 0.0)
    raw = read_files(request.data, text_column=request.text_column, label_column=request.label_column)
    recipes = Preprocessing() if raw.arrays is not None else _recipes(dense, files)
    prepared = make_samples(
        dense,
        raw,
        recipes,
        request.work / "inputs",
        skip_broken=request.skip_broken,
        progress=lambda share: tell("making inputs", share),
    )
    count_work_as_in(dense, prepared.samples)
    parts = split_samples(dense, prepared, settings.batch, settings.seed)
    taken = _taken(prepared.samples, parts["train"])
    if team.leads:  # before minutes are spent on what comes to nothing
        refuse_others(dense, taken, settings, request.work)
    tell("answers of the dense model", 0.0)
    held_out = {name: _with_labels(dense, parts, name, raw, prepared) for name in ("calibration", "test")}
    adaptive = adapt_network(dense, taken, settings, request.work, report, request.executor, team, request.device)
    labelled = raw.labels is not None and dense.task.name == "classification"
    if team.leads:
        tell("writing the folder", 0.0)
        _write(request, dense, adaptive, files, held_out, follows_dense=not labelled)
    else:
        shutil.rmtree(request.work, ignore_errors=True)
    return AdaptReport(
        request.output,
        dense.task.name,
        len(parts["train"]),
        len(parts["test"]),
        prepared.skipped,
        prepared.cut,
        labelled,
        tuple(family.name for family in adaptive.families),
        peak_memory(),
    )


def chosen_families(
    dense: AdaptableNetwork, wanted: tuple[str, ...] | None, learners: int | None
) -> dict[str, Family | None]:
    """Families for a network's depth, width and task.

    Args:
        dense: The network.
        wanted: Of ``FAMILIES``; None: all that fit, but for routed FFNs.
        learners: Of each ACM; None: by the width.

    Raises:
        ExportError: One that is wanted does not fit, and why.
    """
    depth = len(dense.blocks)
    unknown = sorted(set(wanted or ()) - set(FAMILIES))
    if unknown:
        raise ExportError(f"got families {', '.join(unknown)}, expected some of {', '.join(FAMILIES)}")
    criterion = "max_softmax" if "max_softmax" in dense.task.criteria else "certainty"
    blocks = tuple(sorted({max(1, depth // 6), depth // 2} & set(range(depth))))
    candidates: dict[str, Any] = {
        "acm": lambda: ACMConfig(learners=learners or (2 if dense.config.width < _NARROW else 4)),
        "exits": lambda: ExitConfig(dense.usual_exits(), criterion),
        "routes": RoutedFFNConfig,
        "tokens": lambda: PruningConfig(blocks, averages_dropped=dense.config.averages_tokens),
    }
    found: dict[str, Family | None] = dict.fromkeys(FIELDS.values())
    for name in _USUAL if wanted is None else wanted:
        try:
            dense.check_family(_KINDS[name])
            family = candidates[name]()
            dense.with_families([*(beside for beside in found.values() if beside is not None), family])
        except ValueError as error:
            if wanted is not None:
                raise ExportError(f"cannot use the family {name!r}: {error}") from error
            continue
        found[FIELDS[name]] = family
    return found


def count_work_as_in(dense: AdaptableNetwork, samples: Samples) -> None:
    """Make work relative to what the dense network does for a text of the data, in the mean."""
    if samples.lengths is None:
        return
    assert isinstance(dense, Network)  # whose texts have lengths
    macs = [sum(layer.dense for layer in dense.layers(tokens)) for tokens in range(1, dense.tokens + 1)]
    used = [macs[length - 1] for length in np.clip(samples.lengths, 1, dense.tokens).tolist()]
    mean = -(-sum(used) // len(used))  # in whole numbers: rounded up by a bit, it would be beyond the longest text's
    count_work_for(dense, 1 + bisect_left(macs, mean))


def split_samples(
    dense: AdaptableNetwork, prepared: Prepared, batch: int, seed: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Numbers of the samples to train, to calibrate and to test with, drawn at random.

    Raises:
        DataError: Too few are left to train with.
    """
    count = len(prepared.samples)
    most = _HELD_OUT if any("logits" in name for name in dense.task.outputs) else _HELD_OUT_VECTORS
    held = max(1, min(most, count // 10))
    if dense.tokens is not None and dense.task.name == "feature-extraction":
        width = int(dense.config.width) * dense.tokens * 4
        held = max(1, min(held, _LABEL_BYTES // width))
    if count - 2 * held < batch:
        raise DataError(
            f"got {count} samples, expected at least {batch + 2 * held}: a batch of {batch} and some to calibrate and "
            "test with; give more"
        )
    order = np.random.default_rng(seed).permutation(count)
    return {"calibration": order[:held], "test": order[held : 2 * held], "train": np.sort(order[2 * held :])}


def _recipes(dense: AdaptableNetwork, files: Path) -> Preprocessing:
    axes = {name: Axis(*limits) for name, limits in dense.axis_limits().items()}
    return read_preprocessing(files, input_specs(dense), axes)


def _taken(samples: Samples, rows: npt.NDArray[np.int64]) -> Samples:
    """Some samples; those of pictures and sound stay where they are, in order."""
    return Samples({name: _rows(array, rows) for name, array in samples.arrays.items()}, samples.mask)


def _rows(array: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Some rows; of a memory map in a file beside it, never all in memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return array[rows]
    path = Path(array.filename).with_suffix(".train.npy")
    taken = np.lib.format.open_memmap(path, "w+", array.dtype, (len(rows), *array.shape[1:]))
    for start in range(0, len(rows), _COPIED_AT_ONCE):
        taken[start : start + _COPIED_AT_ONCE] = array[rows[start : start + _COPIED_AT_ONCE]]
    return taken


@torch.no_grad()
def _with_labels(
    dense: AdaptableNetwork, parts: Mapping[str, npt.NDArray[np.int64]], name: str, raw: RawData, prepared: Prepared
) -> dict[str, npt.NDArray[Any]]:
    """The inputs of one held-out part and its labels: the data's of classes, else the dense network's answers."""
    rows = parts[name]
    arrays = {key: np.ascontiguousarray(array[rows]) for key, array in prepared.samples.arrays.items()}
    if raw.labels is not None and dense.task.name == "classification":
        names = _class_names(dense)
        labels = classes_of([raw.labels[prepared.kept[row]] for row in rows], names)
    else:
        outputs: dict[str, list[npt.NDArray[Any]]] = {}
        for start in range(0, len(rows), 32):
            inputs = {key: torch.from_numpy(array[start : start + 32]) for key, array in arrays.items()}
            for key, value in dense.run(inputs, {}).outputs.items():
                outputs.setdefault(key, []).append(value.numpy())
        real = None if prepared.samples.mask is None else arrays[prepared.samples.mask] != 0
        if dense.task.answers is None:
            raise DataError(f"got no labels for {dense.task.name}, expected some; give data with labels")
        labels = dense.task.answers({key: np.concatenate(value) for key, value in outputs.items()}, real)
    return {**{f"{name}_{key}": array for key, array in arrays.items()}, f"{name}_labels": labels}


def _class_names(dense: AdaptableNetwork) -> list[str]:
    """Of the checkpoint's configuration; numbers where it has none."""
    named = dict(getattr(dense.config, "made_of", {}).get("id2label") or {})
    return [str(named.get(str(number), named.get(number, number))) for number in range(int(dense.config.classes))]


def _check_output(output: Path) -> None:
    """Refuse to replace what is no model folder."""
    if output.exists() and not (output.is_dir() and (not any(output.iterdir()) or (output / CONFIG).is_file())):
        raise ExportError(f"{output} is there and is no model folder, expected none or one; choose another --output")


def _write(
    request: AdaptRequest,
    dense: AdaptableNetwork,
    adaptive: AdaptableNetwork,
    files: Path,
    held_out: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    *,
    follows_dense: bool,
) -> None:
    """Write everything beside its place, and move it there."""
    output = request.output
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_model(partial, adaptive, dense, SAMPLES, torch.float32)
        shutil.copytree(files, partial / PREPROCESSING)
        arrays = {key: array for part in held_out.values() for key, array in part.items()}
        with (partial / SAMPLES).open("wb") as file:
            np.savez(file, **arrays, **{FOLLOWS_DENSE: np.asarray(follows_dense)})  # type: ignore[arg-type]
        log = request.work / LOG_FILE
        if log.is_file():
            shutil.copyfile(log, partial / LOG_FILE)
        made_of = request.made_of or Path(request.model).name
        about = {"made_of": made_of, "data": request.data.name, "follows_dense": follows_dense}
        write_atomically(partial / ADAPTED_FILE, (json.dumps(about, indent=2) + "\n").encode())
        if output.exists():
            shutil.rmtree(output)
        partial.replace(output)
    except OSError as error:
        raise ExportError(
            f"cannot write {output}: {error.strerror or error}; free some space or choose another --output, the same "
            "command goes on from its checkpoints"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    assert (output / ADAPTIVE).is_file()
