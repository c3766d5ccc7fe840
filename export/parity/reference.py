"""What the torch network computed: the record that graphs are compared with, and its file ``golden.npz``.

Decisions are kept over the tokens' positions before any pruning, so that arrays are the same size for
every sample, whatever it kept.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.errors import ExportError

if TYPE_CHECKING:
    from adaptrt.models.staged_network import StagedNetwork, StageOutput

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
GOLDEN_FILE = "golden.npz"  # its name in a bundle
FOLLOWED = "tokens"  # the set of tokens whose decisions are compared one by one; see ``models.tokens.TOKENS``
FAR = np.float32(1e9)  # margin where nothing was decided
_COUNTED = ("macs_fraction", "confidence")
_LARGEST_GOLDEN = 256 * 2**20  # bytes, unpacked


@dataclass(frozen=True)
class StageValues:
    """What one stage gave: the task's outputs ``[B, ...]``, ``macs_fraction`` ``[B]``, ``confidence`` ``[B]``.

    The last stage has no confidence: nobody has a choice there.
    """

    outputs: dict[str, Array]
    macs_fraction: Floats
    confidence: Floats | None = None


@dataclass(frozen=True)
class Reference:
    """One run of the torch network on B samples, nobody leaving early.

    Attributes:
        knobs: Values by name; knobs that are not named stood at their defaults.
        inputs: Arrays by name.
        stages: What every stage gave.
        k: Learners run, int32 ``[G, B, T]``, one row per gate; -1 where the token was gone.
        margin: Distance of each comparison from a tie, ``[G, B, T, M]``; M is N, or 1 for an argmax gate.
        kept: Tokens that each selection kept, bool ``[S, B, T]``.
        selection_margin: Distance of each token from being decided otherwise, ``[S, B, T]``.
        undisclosed: Least distance from a tie in selections that cannot be forced in graphs, ``[B]``.
    """

    knobs: dict[str, Array]
    inputs: dict[str, Array]
    stages: list[StageValues]
    k: npt.NDArray[np.int32]
    margin: Floats
    kept: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0, 0), bool))
    selection_margin: Floats = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    undisclosed: Floats = field(default_factory=lambda: np.zeros(0, np.float32))

    @property
    def outputs(self) -> dict[str, Array]:
        """Of the last stage."""
        return self.stages[-1].outputs

    @property
    def macs_fraction(self) -> Floats:
        """Of the last stage."""
        return self.stages[-1].macs_fraction

    @property
    def samples(self) -> int:
        """B."""
        return len(self.macs_fraction)

    def clear(self, tie: float) -> npt.NDArray[np.bool_]:
        """Mark the samples, ``[B]``, none of whose decisions is as near a tie as ``tie``."""
        nearest = self.undisclosed if len(self.undisclosed) else np.full(self.samples, FAR)
        if self.margin.size:
            nearest = np.minimum(nearest, np.abs(self.margin).min((0, 2, 3)))
        if self.selection_margin.size:
            nearest = np.minimum(nearest, np.abs(self.selection_margin).min((0, 2)))
        return np.asarray(nearest > tie)


def run_reference(
    model: StagedNetwork, inputs: Mapping[str, Array], knobs: Mapping[str, float | Sequence[float] | Array]
) -> Reference:
    """Run the torch network in evaluation mode."""
    import torch

    specs = {spec.name: spec for spec in model.knob_specs()}
    fed = {
        name: np.broadcast_to(np.asarray(value, specs[name].dtype), specs[name].shape).copy()
        for name, value in knobs.items()
    }
    with torch.no_grad():
        stages = model.run_stages(
            {name: torch.from_numpy(array) for name, array in inputs.items()},
            {name: torch.from_numpy(array) for name, array in fed.items()},
        )
    values = [
        StageValues(
            {name: tensor.numpy() for name, tensor in out.outputs.items()},
            out.macs_fraction.numpy(),
            None if out.confidence is None or out is stages[-1] else out.confidence.numpy(),
        )
        for out in stages
    ]
    return Reference(fed, dict(inputs), values, *_decisions(stages, len(values[0].macs_fraction)))


def _decisions(
    stages: Sequence[StageOutput], batch: int
) -> tuple[npt.NDArray[np.int32], Floats, npt.NDArray[np.bool_], Floats, Floats]:
    """All decisions over the positions that tokens had before any pruning."""
    from adaptrt.models.families.gate import Decision
    from adaptrt.models.tokens import Selection

    decisions: list[Decision | Selection] = []
    undisclosed = np.full(batch, FAR)
    for decision in (decision for out in stages for decision in out.decisions):
        if isinstance(decision, Selection) and not (decision.disclosed and decision.of == FOLLOWED):
            undisclosed = np.minimum(undisclosed, decision.margin.abs().amin(1).numpy())
        else:
            decisions.append(decision)
    position: npt.NDArray[np.int64] | None = None  # [B, K], -1 for padding
    ks, margins, kept, selection_margins, tokens = [], [], [], [], 0
    for decision in decisions:
        if position is None:
            size = len(decision.k) // max(batch, 1) if isinstance(decision, Decision) else decision.margin.shape[1]
            tokens, position = size, np.tile(np.arange(size), (batch, 1))
        if isinstance(decision, Decision):
            compared = decision.margin.shape[1]
            ks.append(spread(decision.k.numpy().reshape(position.shape), position, tokens, -1))
            margin = decision.margin.numpy().reshape(*position.shape, compared)
            margins.append(spread(margin, position, tokens, FAR))
        else:
            selection_margins.append(spread(decision.margin.numpy(), position, tokens, FAR))
            position = follow(position, decision.index.numpy(), decision.count.numpy())
            kept.append(spread(np.ones(position.shape, bool), position, tokens, False))
    return (
        np.stack(ks).astype(np.int32) if ks else np.zeros((0, batch, tokens), np.int32),
        np.stack(margins) if margins else np.zeros((0, batch, tokens, 1), np.float32),
        np.stack(kept) if kept else np.zeros((0, batch, tokens), bool),
        np.stack(selection_margins) if selection_margins else np.zeros((0, batch, tokens), np.float32),
        undisclosed,
    )


def spread(values: Array, position: npt.NDArray[np.int64], tokens: int, absent: Any) -> Array:
    """Put values of the tokens that are left, ``[B, K, ...]``, to their first positions, ``[B, tokens, ...]``.

    ``position`` ``[B, K]`` is -1 for padding; ``absent`` stands where no token is left.
    """
    batch = len(values)
    padded = np.full((batch, tokens, *values.shape[2:]), absent, values.dtype)
    rows, columns = np.nonzero(position >= 0)
    padded[rows, position[rows, columns]] = values[rows, columns]
    return padded


def follow(position: npt.NDArray[np.int64], index: Array, count: Array) -> npt.NDArray[np.int64]:
    """Positions after a selection that kept ``index`` ``[B, K']``, of which ``count`` ``[B]`` are real."""
    real = np.arange(index.shape[1])[None] < count[:, None]
    if not position.shape[1]:
        return np.full(index.shape, -1)
    return np.where(real, np.take_along_axis(position, index.astype(np.int64), 1), -1)


def encode_golden(references: Sequence[Reference]) -> bytes:
    """Pack references over the same inputs and knobs into the bytes of an ``.npz`` file."""
    first = references[0]
    arrays: dict[str, Array] = {f"input.{name}": array for name, array in first.inputs.items()}
    for name in first.knobs:
        arrays[f"knob.{name}"] = np.stack([reference.knobs[name] for reference in references])
    for number, stage in enumerate(first.stages):
        for name in stage.outputs:
            arrays[f"stage{number}.{name}"] = np.stack([other.stages[number].outputs[name] for other in references])
        for key in _COUNTED:
            if getattr(stage, key) is not None:
                values = [getattr(reference.stages[number], key) for reference in references]
                arrays[f"stage{number}.{key}"] = np.stack(values)
    for key in ("k", "margin", "kept", "selection_margin", "undisclosed"):
        arrays[key] = np.stack([getattr(reference, key) for reference in references])
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_golden(path: Path) -> list[Reference]:
    """Read ``golden.npz``.

    Raises:
        ExportError: It is missing, damaged, too large or its arrays do not fit together.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _LARGEST_GOLDEN:
            raise ValueError(f"{size} bytes unpacked, expected at most {_LARGEST_GOLDEN}")
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
        runs, stages = _check_golden(arrays)
        inputs = {name[6:]: array for name, array in arrays.items() if name.startswith("input.")}
        return [
            Reference(
                {name[5:]: array[run] for name, array in arrays.items() if name.startswith("knob.")},
                inputs,
                [_stage_values(arrays, number, run) for number in range(stages)],
                arrays["k"][run],
                arrays["margin"][run],
                arrays["kept"][run],
                arrays["selection_margin"][run],
                arrays["undisclosed"][run],
            )
            for run in range(runs)
        ]
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, ...
        raise ExportError(f"cannot read {path}: {error}; export the bundle again") from error


def _stage_values(arrays: dict[str, Array], number: int, run: int) -> StageValues:
    confidence = arrays.get(f"stage{number}.confidence")
    prefix = f"stage{number}."
    names = [name.removeprefix(prefix) for name in arrays if name.startswith(prefix)]
    return StageValues(
        {name: arrays[prefix + name][run] for name in names if name not in _COUNTED},
        arrays[f"stage{number}.macs_fraction"][run],
        None if confidence is None else confidence[run],
    )


def _check_golden(arrays: dict[str, Array]) -> tuple[int, int]:
    """Check that the arrays of a golden file fit together; how many runs and stages it has.

    Raises:
        ValueError: They do not.
    """
    stages = sum(name.startswith("stage") and name.endswith(".macs_fraction") for name in arrays)
    if not stages or "k" not in arrays or arrays["k"].ndim != 4:
        raise ValueError(
            f"arrays {sorted(arrays)}, expected macs_fraction of each stage and k [runs, gates, samples, tokens]"
        )
    runs, gates, samples, tokens = arrays["k"].shape
    selections = arrays["kept"].shape[1] if arrays["kept"].ndim == 4 else 0
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "k": ("int32", (runs, gates, samples, tokens)),
        "margin": ("float32", (runs, gates, samples, tokens, *arrays["margin"].shape[4:5])),
        "kept": ("bool", (runs, selections, samples, tokens)),
        "selection_margin": ("float32", (runs, selections, samples, tokens)),
        "undisclosed": ("float32", (runs, samples)),
    }
    for number in range(stages):
        prefix = f"stage{number}."
        outputs = [name for name in arrays if name.startswith(prefix) and name.removeprefix(prefix) not in _COUNTED]
        if not outputs:
            raise ValueError(f"no outputs of stage {number}, expected at least one")
        for name in outputs:
            wanted[name] = (arrays[name].dtype.name, (runs, samples, *arrays[name].shape[2:]))
        for key in _COUNTED:
            if key == "macs_fraction" or prefix + key in arrays:
                wanted[prefix + key] = ("float32", (runs, samples))
    for name, array in arrays.items():
        if name.startswith("input."):
            wanted[name] = (array.dtype.name, (samples, *array.shape[1:]))
        elif name.startswith("knob."):
            wanted[name] = (array.dtype.name, (runs, *array.shape[1:]))
    if not runs or not samples or not any(name.startswith("input.") for name in arrays):
        raise ValueError(f"{runs} runs of {samples} samples, expected at least one of each, and inputs")
    if set(arrays) != set(wanted):
        raise ValueError(f"arrays {sorted(arrays)}, expected {sorted(wanted)}")
    for name, (dtype, shape) in wanted.items():
        if arrays[name].dtype.name != dtype or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected {dtype} {shape}")
        if arrays[name].dtype.kind not in "fiub" or not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has values that are not finite numbers, expected finite ones")
    return runs, stages
