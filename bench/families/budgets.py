"""What each network gives at the same budgets: the families' frontiers, one beside the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptrt.bench.families.networks import FamilyNetwork
from adaptrt.bench.families.points import NetworkPoint
from adaptrt.runtime.bundle.bundle_file import read_bundle
from adaptrt.runtime.control.budget import Budget
from adaptrt.runtime.control.operating_point import BudgetSolver

BUDGETS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Shares of the dense network's multiply-accumulates."""


def accuracy_at(network: FamilyNetwork, points: Sequence[NetworkPoint], fraction: float, base: int) -> float | None:
    """Accuracy on test images for at most a share of the dense network's work; None where it cannot do so little.

    Of a network with a curve that of the point that the runtime would choose. Others are told how many
    tokens to keep: the best of the points measured and of the lines between them.

    Args:
        network: Exported.
        points: Measured of it.
        fraction: Share of the work of the dense network that all are compared with.
        base: Multiply-accumulates of that one for one image.
    """
    if network.calibrated:
        bundle = read_bundle(network.file, verify_hashes=False)
        point = BudgetSolver(bundle).solve(Budget.fraction(fraction * base / bundle.dense.macs))
        return point.quality if point.reachable else None
    ordered = sorted(points, key=lambda measured: measured.macs_fraction)
    cost, accuracy = (
        np.array([getattr(measured, name) for measured in ordered]) for name in ("macs_fraction", "accuracy")
    )
    if fraction < cost[0]:
        return None
    return float(max(accuracy[cost <= fraction].max(), np.interp(fraction, cost, accuracy)))
