"""Load a bundle and obey a budget: numpy and one inference engine, no torch, no onnx.

>>> from adaptrt.runtime import Budget, load
>>> Budget.fraction(0.5)
Budget(kind='fraction', value=0.5)
"""

from adaptrt.runtime.budget import Budget
from adaptrt.runtime.bundle import Bundle
from adaptrt.runtime.errors import BackendError, BudgetError, BundleError, InputError
from adaptrt.runtime.model import AdaptiveModel, Result, load
from adaptrt.runtime.operating_point import OperatingPoint

__all__ = [
    "AdaptiveModel",
    "BackendError",
    "Budget",
    "BudgetError",
    "Bundle",
    "BundleError",
    "InputError",
    "OperatingPoint",
    "Result",
    "load",
]
