"""Weighted logistic regression, for `labelgen.audit.checks.mismatch` and for fusions fitted to judgements."""

from __future__ import annotations

import numpy as np

from labelgen.types import Float64

_STEPS = 50


def logistic(rows: Float64, targets: Float64, weights: Float64, *, ridge: float) -> Float64:
    """Return the weights with the largest penalized likelihood, [1 + d], the constant first.

    Args:
        rows: [n, d].
        targets: probabilities in [0, 1], [n].
        weights: [n]; normalized to the sum 1.
        ridge: half of it times the squared slopes is subtracted from the log-likelihood; the constant is free.
    """
    design = np.column_stack([np.ones(len(rows)), rows])
    share = weights / max(float(weights.sum()), 1e-9)
    model = np.zeros(design.shape[1])
    penalty = ridge * np.eye(len(model))
    penalty[0, 0] = 0
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(design @ model, -50, 50)))
        gradient = design.T @ (share * (targets - probability)) - penalty @ model
        curvature = (design * (share * probability * (1 - probability))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(model)), gradient)
        largest = float(np.abs(step).max())
        model += step * min(1.0, 5 / max(1e-12, largest))
        if largest < 1e-9:
            break
    return model
