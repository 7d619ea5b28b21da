"""What is compared: the budget that all share, what was tried, and what was chosen."""

from __future__ import annotations

from comparison.training import Budget

BUDGET = Budget()

#: Method -> what `compare.py sweep` tries. Both baselines are tuned as the methods are.
SWEEP: dict[str, list[str]] = {
    "triplet": [f"triplet(margin={margin})" for margin in (0.05, 0.1, 0.2, 0.3)],
    "info_nce": [
        "info_nce()",
        *(f"info_nce(start={start}, low={start}, high={start})" for start in (0.02, 0.05, 0.1, 0.2)),
    ],
}

#: Name in the table -> what `compare.py run` trains, by the rule of `chosen`.
CHOSEN: dict[str, str] = {"triplet": "triplet()", "InfoNCE": "info_nce()"}
