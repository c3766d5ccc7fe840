"""Passes over data: each made once, counted, bounded, told, and kept for when the search is interrupted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from adaptrt.export.calibration.journal import Journal
from adaptrt.export.calibration.stage_records import Knobs, StagedModel, StageRecords, record_passes
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
        self._done = 0
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
            self.prepare([knobs])
        return self._found[name]

    def prepare(self, every: Sequence[Knobs]) -> None:
        """Make passes that ``calibration`` will be asked for, as many as are left; several processes share them.

        Raises:
            CalibrationError: The data does not fit.
        """
        new = self._new("calibration", every)
        for _ in self._make(dict(itertools.islice(new.items(), self.left)), self.data.calibration):
            self._done += 1
            self._progress(self._doing, 0.5 * self._done / self.limit)

    def held_out(self, every: Sequence[Knobs]) -> list[StageRecords]:
        """The same for the test split, at each of these knobs."""
        new = self._new("test", every)
        for number, _ in enumerate(self._make(new, self.data.test), start=1):
            self._progress("measuring quality on held-out data", 0.5 + 0.5 * number / len(new))
        return [self._found[self._name("test", knobs)] for knobs in every]

    def _new(self, split: str, every: Sequence[Knobs]) -> dict[str, Knobs]:
        """Those that have not been asked for, by their passes' names."""
        named = {self._name(split, knobs): knobs for knobs in every}
        return {name: knobs for name, knobs in named.items() if name not in self._found}

    def _make(self, new: Mapping[str, Knobs], split: Split) -> Iterator[None]:
        """Make passes, or take them from the journal; each is kept before the next is waited for."""
        missing = [knobs for name, knobs in new.items() if self._journal.get(name) is None]
        made = record_passes(self.model, split, missing, self._task)
        for name in new:
            found = self._journal.get(name)
            if found is None:
                found = next(made)
                self._journal.add(name, found)
            self._found[name] = found
            yield

    def _name(self, split: str, knobs: Knobs) -> str:
        """What tells passes apart: the split and all knobs, defaults included, a followed price resolved."""
        values = {knob.name: knobs.get(knob.name, knob.default) for knob in self.model.bundle.knobs}
        token_price, price = values.get(TOKEN_PRICE_KNOB), values.get(PRICE_KNOB)
        if isinstance(token_price, float | int) and token_price < 0 and price is not None:
            values[TOKEN_PRICE_KNOB] = price
        return json.dumps([split, values], sort_keys=True)
