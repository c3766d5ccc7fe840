"""Before calls under a budget of this device: what they need is measured with progress, not in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adaptrt.runtime.control.budget_kinds import BUDGET_KINDS

if TYPE_CHECKING:
    from adaptrt.runtime import AdaptiveModel, Budget


def prepare(model: AdaptiveModel, inputs: Mapping[str, Any], budget: Budget, *, batch: int) -> None:
    """Profile the device if the budget needs it and nobody has, with a bar that Ctrl-C ends.

    Args:
        model: The bundle.
        inputs: Samples like those to come.
        budget: Of the calls.
        batch: Samples of a call, at most.

    Raises:
        InputError: An input is not what the bundle declares.
        BudgetError: The bundle cannot obey the budget.
        BackendError: The engine failed.
    """
    if not BUDGET_KINDS[budget.kind].meter.physical:
        return
    from adaptrt.cli.batches import count_samples, repeated
    from adaptrt.cli.progress import steps_shown
    from adaptrt.runtime.inputs import InputContract

    InputContract(model.bundle.inputs, model.bundle.axes).check(inputs)
    size = min(batch, count_samples(model.bundle, inputs))
    fed = repeated(model.bundle, inputs, 0, size)
    with steps_shown() as progress:
        model.prepare(fed, budget, progress=lambda share: progress(f"profiling batches of {size}", share))
