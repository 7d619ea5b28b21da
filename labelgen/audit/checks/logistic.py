"""The odds that a pair is as it should be, learned from pairs that are not: see `labelgen.audit.checks.mismatch`."""

from __future__ import annotations

import numpy as np

from labelgen.types import Bool, Float32, Float64

#: Evidence on a pair; `labelgen.audit.checks.mismatch` says what each is.
PIECES = ("siblings", "sibling_top2", "sibling_mean", "elsewhere", "around", "sight")

_RIDGE = 1e-3


def judge(
    evidence: dict[str, Float32], against: dict[str, Float32], weights: Float32
) -> tuple[Float32, Float32, float]:
    """Log-odds of being no replaced pair, suspicion, and the share of wrong pairs.

    Pairs with siblings and pairs without are judged by models of their own.
    """
    odds = np.zeros(len(weights), np.float32)
    suspicion = np.zeros(len(weights), np.float32)
    with_siblings, against_with = ~np.isnan(evidence["siblings"]), ~np.isnan(against["siblings"])
    wrong = 0.0
    for have in (True, False):
        mine, theirs = with_siblings == have, against_with == have
        if mine.sum() < 2 or theirs.sum() < 2:
            continue
        left, right = _table(evidence, against, mine, theirs)
        model = logistic(left, right, weights[mine])
        odds[mine], foreign = left @ model[1:] + model[0], right @ model[1:] + model[0]
        noise = min(0.9, 2 * float((odds[mine] < np.median(foreign)).mean()))
        ratio = np.exp(np.clip(odds[mine], -50, 50))
        suspicion[mine] = noise / (noise + (1 - noise) * ratio) if noise else 0.0
        wrong += noise * float(mine.sum())
    return odds, suspicion, wrong / max(len(weights), 1)


def _table(
    evidence: dict[str, Float32], against: dict[str, Float32], mine: Bool, theirs: Bool
) -> tuple[Float64, Float64]:
    """Evidence of real and of replaced pairs in standard deviations; what is missing counts as the mean."""
    columns, others = [], []
    for name in PIECES:
        real, replaced = evidence[name][mine].astype(np.float64), against[name][theirs].astype(np.float64)
        known = replaced[~np.isnan(replaced)]
        if not len(known) or known.std() == 0 or np.isnan(real).all():
            continue
        mean, deviation = np.nanmean(real), known.std()
        columns.append(np.nan_to_num((real - mean) / deviation))
        others.append(np.nan_to_num((replaced - mean) / deviation))
    shape = (int(mine.sum()), 0), (int(theirs.sum()), 0)
    return (
        np.stack(columns, axis=1) if columns else np.zeros(shape[0]),
        np.stack(others, axis=1) if others else np.zeros(shape[1]),
    )


def logistic(positive: Float64, negative: Float64, weights: Float32, *, steps: int = 25) -> Float64:
    """Logistic regression by Newton's method, both classes of equal weight: [1 + d], the constant first.

    Args:
        positive, negative: rows of the classes, [n, d] and [m, d].
        weights: of the positive rows, [n].
    """
    rows = np.concatenate([positive, negative])
    design = np.concatenate([np.ones((len(rows), 1)), rows], axis=1)
    target = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    share = np.concatenate(
        [0.5 * weights / max(float(weights.sum()), 1e-9), np.full(len(negative), 0.5 / max(len(negative), 1))]
    )
    model = np.zeros(design.shape[1])
    penalty = _RIDGE * np.eye(len(model))
    penalty[0, 0] = 0
    for _ in range(steps):
        chance = 1 / (1 + np.exp(-np.clip(design @ model, -50, 50)))
        gradient = design.T @ (share * (target - chance)) - penalty @ model
        curvature = (design * (share * chance * (1 - chance))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(model)), gradient)
        model = model + step
        if np.abs(step).max() < 1e-8:
            break
    return model
