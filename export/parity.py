"""Does the graph compute what torch computed? Decisions teacher-forced, logits, work counted, batches.

The reference's decisions are fed to the graph, so that hidden states are the same, and each gate's own
decision is compared there. A decision may differ
only in a tie. Free-running agreement, where one tie may change what follows, is reported beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from adaptrt.export.errors import ParityError
from adaptrt.export.reference import Reference
from adaptrt.export.teacher_forcing import decision_names, force_decisions

TIE = 1e-4  # a decision whose comparison is closer than this may fall either way
LOGIT_TOLERANCE = 1e-4
MACS_TOLERANCE = 1e-6

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ParityRow:
    """Comparison at one price and batch size.

    Attributes:
        price: The price.
        batch: Batch size.
        samples: Samples compared.
        decisions: Decisions (one per gate and token) compared, teacher-forced.
        flips: Decisions that differ outside ties.
        ties: Decisions that differ in a tie.
        max_logit_error: Largest absolute difference of logits under the same decisions.
        max_macs_error: Largest absolute difference of ``macs_fraction`` under the same decisions.
        agreeing: Share of samples whose free-running work equals the reference's.
        unexplained: Samples whose free-running work differs though no decision of theirs is near a tie.
        free_logit_error: Largest absolute difference of logits, free-running, over the samples with no
            decision near a tie.
    """

    price: float
    batch: int
    samples: int
    decisions: int
    flips: int
    ties: int
    max_logit_error: float
    max_macs_error: float
    agreeing: float
    unexplained: int
    free_logit_error: float

    def failures(self) -> list[str]:
        """What is out of tolerance, in words; empty if nothing."""
        found = []
        if not self.samples or not self.decisions:
            found.append(f"{self.samples} samples and {self.decisions} decisions were compared, expected at least 1")
        if self.flips:
            found.append(f"{self.flips} of {self.decisions} decisions differ outside ties, expected 0")
        if self.unexplained:
            found.append(f"{self.unexplained} samples differ free-running without a tie, expected 0")
        for name, error, limit in (
            ("logits", self.max_logit_error, LOGIT_TOLERANCE),
            ("free-running logits", self.free_logit_error, LOGIT_TOLERANCE),
            ("macs_fraction", self.max_macs_error, MACS_TOLERANCE),
        ):
            if not error <= limit:
                found.append(f"{name} differ by {error:.2e}, expected at most {limit:.0e}")
        return found


@dataclass(frozen=True)
class ParityReport:
    """All rows of a parity check."""

    rows: list[ParityRow]

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything was within its tolerance."""
        return bool(self.rows) and not any(row.failures() for row in self.rows)

    def require(self, what: str) -> ParityReport:
        """Give the report back if it passed.

        Raises:
            ParityError: Nothing was compared, or something was out of tolerance.
        """
        if not self.rows:
            raise ParityError(f"{what}: nothing was compared, expected at least one price and one input")
        for row in self.rows:
            if failures := row.failures():
                raise ParityError(
                    f"{what}: at price {row.price:.4g}, batch {row.batch}: {'; '.join(failures)}; "
                    "do not deploy this file, export again or report the model"
                )
        return self


class GraphUnderTest:
    """An exported graph, free-running and teacher-forced, on ONNX Runtime."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.gates = len(decision_names(model))
        if not self.gates:
            raise ParityError("the graph has no adaptive node, expected at least one; was a dense model exported?")
        self._free = _session(model)
        self._forced = _session(force_decisions(model))
        self._inputs = next(v.name for v in model.graph.input if v.name != "price")

    def free(self, inputs: Array, price: float) -> tuple[Array, Array]:
        """Logits and ``macs_fraction`` as a user gets them."""
        feeds = {self._inputs: inputs, "price": np.array([price], np.float32)}
        logits, macs_fraction = _run(self._free, ["logits", "macs_fraction"], feeds)
        return logits, macs_fraction

    def forced(self, reference: Reference) -> tuple[Array, Array, npt.NDArray[np.int32]]:
        """Logits, ``macs_fraction`` and each gate's own choice ``[L, B * T]`` under the reference's decisions."""
        feeds = {self._inputs: reference.inputs, "price": np.array([reference.price], np.float32)}
        feeds |= {f"forced_{index}": k for index, k in enumerate(reference.k)}
        names = ["logits", "macs_fraction", *(f"chosen_{index}" for index in range(self.gates))]
        logits, macs_fraction, *chosen = _run(self._forced, names, feeds)
        return logits, macs_fraction, np.stack(chosen)

    def compare(self, reference: Reference, tie: float = TIE) -> ParityRow:
        """Compare one run of the torch model; decisions closer than ``tie`` may fall either way.

        Raises:
            ParityError: The reference is of another graph.
        """
        if len(reference.k) != self.gates:
            raise ParityError(f"the reference has {len(reference.k)} gates, expected {self.gates} as in the graph")
        logits, macs_fraction, chosen = self.forced(reference)
        flips, ties = count_flips(chosen, reference.k, reference.margin, tie)
        free_logits, free_macs = self.free(reference.inputs, reference.price)
        agreeing = np.abs(free_macs - reference.macs_fraction) <= MACS_TOLERANCE
        batch = len(reference.inputs)
        clear = clear_samples(reference.margin, batch, tie)
        return ParityRow(
            price=reference.price,
            batch=batch,
            samples=batch,
            decisions=chosen.size,
            flips=flips,
            ties=ties,
            max_logit_error=_largest(logits - reference.logits),
            max_macs_error=_largest(macs_fraction - reference.macs_fraction),
            agreeing=float(agreeing.mean()) if batch else 0.0,
            unexplained=int((clear & ~agreeing).sum()),
            free_logit_error=_largest((free_logits - reference.logits)[clear]),
        )


def clear_samples(margin: Array, batch: int, tie: float = TIE) -> npt.NDArray[np.bool_]:
    """Mark the samples, ``[B]``, none of whose decisions is near a tie, given margins ``[L, B * T, M]``."""
    gates, tokens, compared = margin.shape
    by_sample = np.abs(margin).reshape(gates, batch, tokens // max(batch, 1), compared)
    return np.asarray(by_sample.min((0, 2, 3), initial=np.inf) > tie)


def count_flips(
    chosen: npt.NDArray[np.int32], wanted: npt.NDArray[np.int32], margin: Array, tie: float = TIE
) -> tuple[int, int]:
    """Count decisions that differ, outside ties and in ties.

    A difference between k and k' is a tie if every comparison between them is: |margin| <= tie for
    all n from min(k, k') up to max(k, k').

    Args:
        chosen: int32 ``[L, T]``.
        wanted: int32 ``[L, T]``.
        margin: The reference's margins, ``[L, T, N]``, or ``[L, T, 1]`` for an argmax gate.
        tie: Largest margin that excuses a difference.

    Raises:
        ParityError: The shapes do not fit together.
    """
    if chosen.shape != wanted.shape or margin.shape[:2] != wanted.shape:
        raise ParityError(f"got decisions of shape {chosen.shape}, expected {wanted.shape}")
    low, high = np.minimum(chosen, wanted)[..., None], np.maximum(chosen, wanted)[..., None]
    n = np.arange(margin.shape[-1])
    crossed = (n >= low) & (n < high) if margin.shape[-1] > 1 else low != high
    outside = (crossed & (np.abs(margin) > tie)).any(-1)
    differ = chosen != wanted
    # A difference that no margin accounts for (k beyond the learners) is a flip too.
    flips = differ & (outside | ~crossed.any(-1))
    return int(flips.sum()), int((differ & ~flips).sum())


def merge_rows(rows: Sequence[ParityRow]) -> ParityRow:
    """Join rows of the same price and batch size into one, worst values kept."""
    samples = sum(row.samples for row in rows)
    return replace(
        rows[0],
        samples=samples,
        decisions=sum(row.decisions for row in rows),
        flips=sum(row.flips for row in rows),
        ties=sum(row.ties for row in rows),
        max_logit_error=max(row.max_logit_error for row in rows),
        max_macs_error=max(row.max_macs_error for row in rows),
        agreeing=sum(row.agreeing * row.samples for row in rows) / max(samples, 1),
        unexplained=sum(row.unexplained for row in rows),
        free_logit_error=max(row.free_logit_error for row in rows),
    )


def _largest(difference: Array) -> float:
    """Largest absolute value; NaN counts as infinite, nothing as 0."""
    if not difference.size:
        return 0.0
    largest = float(np.abs(difference).max())
    return largest if np.isfinite(largest) else float("inf")


def _run(
    session: onnxruntime.InferenceSession, names: list[str], feeds: dict[str, npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    try:
        return [np.asarray(value) for value in session.run(names, feeds)]
    except Exception as error:  # pybind's exceptions share no base class
        cause = " ".join(str(error).split())
        raise ParityError(
            f"the graph does not run on the reference's inputs: {cause}; export the bundle again"
        ) from error


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would print comes as an exception too
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # two sessions live side by side
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
