"""Load a bundle and obey a budget: numpy and one inference engine, no torch, no onnx.

>>> from adaptrt.runtime import Budget, load
>>> Budget.fraction(0.5)
Budget(kind='fraction', value=0.5, hard=False, percentile=0.0)
"""

from adaptrt.runtime.bundle.bundle_file import Bundle
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.chains import OperatingPoint
from adaptrt.runtime.decisions import Decisions
from adaptrt.runtime.errors import BackendError, BudgetError, BundleError, InputError, TelemetryError
from adaptrt.runtime.loading import load
from adaptrt.runtime.model import AdaptiveModel
from adaptrt.runtime.result import Result

__all__ = [
    "AdaptiveModel",
    "BackendError",
    "Budget",
    "BudgetError",
    "Bundle",
    "BundleError",
    "Decisions",
    "InputError",
    "OperatingPoint",
    "Result",
    "TelemetryError",
    "load",
]
