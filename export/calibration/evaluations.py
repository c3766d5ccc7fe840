"""Passes over data: each made once, counted, bounded, told, and kept for when the search is interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from adaptrt.export.calibration.journal import Journal
from adaptrt.export.calibration.stage_records import Knobs, StagedModel, StageRecords, record_stages
from adaptrt.export.errors import CalibrationError
from adaptrt.models.tasks import Task
from adaptrt.runtime.bundle.schema import PRICE_KNOB, TOKEN_PRICE_KNOB

if TYPE_CHECKING:
    from adaptrt.models.data.split import DataSplits, Split

Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0..1."""


def untold(what: str, share: float) -> None:
    """Progress that nobody wants to hear."""
    del what, share


class Evaluations:
    """A bundle's passes over its calibration data, at most ``limit`` of them, and over held-out data.

    A pass that was asked for before is not made again, nor one that the journal of an interrupted
    calibration holds; both kinds count, so that a search that goes on takes the same path.

    Args:
        model: The bundle.
        data: Calibration and test splits.
        limit: Passes over the calibration split.
        journal: Open; finished passes go there.
        progress: Told what is being done; calibration is the first half of the whole.
        task: What judges the outputs; None: the bundle's own.
    """

    def __init__(
        self,
        model: StagedModel,
        data: DataSplits,
        *,
        limit: int,
        journal: Journal,
        progress: Progress = untold,
        task: Task | None = None,
    ) -> None:
        self.model, self.data, self.limit, self._task = model, data, limit, task
        self._journal, self._progress = journal, progress
        self._found: dict[str, StageRecords] = {}
        self._done, self._held_out = 0, 0
        self._doing = "calibrating"
        if len(journal):
            progress(f"going on from {len(journal)} finished passes", 0.0)

    @property
    def done(self) -> int:
        """Passes over the calibration split so far."""
        return self._done

    @property
    def left(self) -> int:
        """Passes over the calibration split that may still be made."""
        return self.limit - self._done

    def begin(self, what: str) -> None:
        """Say what the next passes are for."""
        self._doing = f"calibrating, {what} (of {self.limit} passes at most)"

    def known(self, knobs: Knobs) -> bool:
        """Whether the pass at these knobs has been made and would cost nothing."""
        return self._name("calibration", knobs) in self._found

    def calibration(self, knobs: Knobs) -> StageRecords:
        """One evaluation: what every stage says of the calibration split at these knobs, exits off.

        Raises:
            CalibrationError: The limit is reached, or the data does not fit.
        """
        name = self._name("calibration", knobs)
        if name not in self._found:
            if not self.left:
                raise CalibrationError(f"got more than {self.limit} evaluations, expected at most that; allow more")
            self._found[name] = self._made(name, knobs, self.data.calibration)
            self._done += 1
            self._progress(self._doing, 0.5 * self._done / self.limit)
        return self._found[name]

    def held_out(self, knobs: Knobs, total: int) -> StageRecords:
        """The same for the test split; of ``total`` such passes, to tell how far they are."""
        name = self._name("test", knobs)
        if name not in self._found:
            self._found[name] = self._made(name, knobs, self.data.test)
            self._held_out += 1
            self._progress("measuring quality on held-out data", 0.5 + 0.5 * min(self._held_out / total, 1.0))
        return self._found[name]

    def _made(self, name: str, knobs: Knobs, split: Split) -> StageRecords:
        found = self._journal.get(name)
        if found is None:
            found = record_stages(self.model, split, knobs, self._task)
            self._journal.add(name, found)
        return found

    def _name(self, split: str, knobs: Knobs) -> str:
        """What tells passes apart: the split and all knobs, defaults included, a followed price resolved."""
        values = {knob.name: knobs.get(knob.name, knob.default) for knob in self.model.bundle.knobs}
        token_price, price = values.get(TOKEN_PRICE_KNOB), values.get(PRICE_KNOB)
        if isinstance(token_price, float | int) and token_price < 0 and price is not None:
            values[TOKEN_PRICE_KNOB] = price
        return json.dumps([split, values], sort_keys=True)
