"""Prove a bundle on one of the runtime's engines: what it gives, beside what torch computed at export.

An engine is taken as it is, so its decisions cannot be forced to be torch's. Those close to a tie may fall
otherwise, and what follows from them then differs: numbers are compared on the samples none of whose
decisions is close to one. In half precision decisions fall otherwise elsewhere too; there the predictions
count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.export.calibration.stage_records import agreement
from adaptrt.export.errors import ExportError, ParityError
from adaptrt.export.parity.comparison import TIE, largest_difference
from adaptrt.export.parity.reference import GOLDEN_FILE, Reference, read_golden
from adaptrt.runtime import AdaptiveModel, Budget, load
from adaptrt.runtime.bundle.bundle_file import KnobValue

TOLERANCE = 1e-4
"""Largest difference of outputs and confidences in float32."""
MAX_FEWER = 0.01
"""Share of torch's predictions that an engine in half precision may miss."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class BackendRow:
    """One golden run.

    Attributes:
        knobs: that were fed; the others stood at their defaults.
        samples: in the run.
        clear: how many of them have no decision close to a tie.
        difference: largest one of outputs or confidences, of any stage, on those; NaN if there are none.
        agreeing: share of all samples whose prediction is torch's.
        full: whether it is a full budget, which the dense model's graph answers: compared with that graph in float32 in
            the place of torch.
    """

    knobs: dict[str, list[float]]
    samples: int
    clear: int
    difference: float
    agreeing: float
    full: bool = False


@dataclass(frozen=True)
class BackendReport:
    """All golden runs on one backend.

    Attributes:
        backend: its name.
        reason: why it was taken.
        exact: whether the numbers had to agree; else the predictions.
        rows: one for each run.
    """

    backend: str
    reason: str
    exact: bool
    rows: list[BackendRow]

    def require(self, what: str) -> BackendReport:
        """Itself, if it stands the test.

        Raises:
            ParityError: it does not, or nothing was compared.
        """
        compared = sum(row.clear if self.exact else row.samples for row in self.rows)
        if not compared:
            raise ParityError(f"{what} on {self.backend}: nothing was compared, expected golden runs; export it again")
        for row in self.rows:
            if self.exact and row.clear and not row.difference <= TOLERANCE:
                raise ParityError(
                    f"{what} on {self.backend}: outputs differ by {row.difference:.2e} at {row.knobs}, expected at "
                    f"most {TOLERANCE:.0e}; build the engine again, or use another backend"
                )
        agreeing = sum(row.agreeing * row.samples for row in self.rows) / sum(row.samples for row in self.rows)
        if not self.exact and agreeing < 1 - MAX_FEWER:
            raise ParityError(
                f"{what} on {self.backend}: {agreeing:.1%} of the predictions are torch's, expected at least "
                f"{1 - MAX_FEWER:.0%}; build the engine in fp32, or use another backend"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """As JSON takes it."""
        rows = [asdict(row) | {"difference": row.difference if row.clear else None} for row in self.rows]
        return {"backend": self.backend, "reason": self.reason, "exact": self.exact, "rows": rows}


def verify_backend(
    folder: Path, backend: str, *, precision: str | None = None, plugin_library: Path | None = None
) -> BackendReport:
    """Compare a bundle on one of the runtime's backends with what torch computed at export.

    Args:
        folder: of the bundle.
        backend: as ``adaptrt.runtime.load`` takes it.
        precision: likewise.
        plugin_library: likewise.

    Raises:
        BundleError: The bundle, or what was built in it, is damaged or missing.
        BackendError: The backend cannot run it.
        ExportError: ``golden.npz`` is missing or damaged.
        ParityError: An output differs, or nothing was compared.
    """
    golden = folder / GOLDEN_FILE
    model = load(folder, backend=backend, precision=precision, plugin_library=plugin_library)
    if not golden.is_file():
        raise ExportError(f"{folder} has no {GOLDEN_FILE}, expected the runs to compare with; export the bundle again")
    references = read_golden(golden)
    rows = [_compare(model, reference) for reference in references]
    if model.answers_by_dense and (folder / str(model.bundle.dense.file)).is_file():  # a device may have left it out
        rows.append(_compare_full(model, load(folder), references[0]))
    report = BackendReport(model.backend_name, model.backend_reason, model.precision == "fp32", rows)
    return report.require(f"bundle {model.bundle.name!r}")


def _compare(model: AdaptiveModel, reference: Reference) -> BackendRow:
    knobs = {name: value.reshape(-1).tolist() for name, value in reference.knobs.items()}
    stages = model.run_stages(reference.inputs, knobs=_as_knobs(model, reference))
    clear = reference.clear(TIE)
    differences = []
    for stage, wanted in zip(stages, reference.stages, strict=True):
        pairs = [(stage[name], value) for name, value in wanted.outputs.items()]
        if wanted.confidence is not None:
            pairs.append((stage["confidence"], wanted.confidence))
        differences += [largest_difference(one, other, clear) for one, other in pairs]
    return BackendRow(
        knobs,
        reference.samples,
        int(clear.sum()),
        max(differences) if clear.any() else float("nan"),
        float(agreement(model.bundle)(stages[-1], reference.outputs).mean()),
    )


def _compare_full(model: AdaptiveModel, portable: AdaptiveModel, reference: Reference) -> BackendRow:
    """What the dense model's graph answers on the engine, beside its answers in float32: nothing is decided there."""
    given, wanted = (each.run(reference.inputs, budget=Budget.full()) for each in (model, portable))
    every = np.ones(reference.samples, bool)
    differences = [largest_difference(given.outputs[name], wanted.outputs[name], every) for name in reference.outputs]
    agreeing = float(agreement(model.bundle)(given.outputs, wanted.outputs).mean())
    return BackendRow({}, reference.samples, reference.samples, max(differences), agreeing, full=True)


def _as_knobs(model: AdaptiveModel, reference: Reference) -> dict[str, KnobValue]:
    """A number for a knob of one element, a list for others."""
    shapes = {knob.name: knob.shape for knob in model.bundle.knobs}
    values = {name: value.reshape(-1).tolist() for name, value in reference.knobs.items() if name in shapes}
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}
