"""Recommendation of a card: the label that agrees best with every file of judgements, and the interval of its lead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from labelgen.audit.card.measures import Figure
from labelgen.audit.card.rows import CardRow

#: Measures that order the labels, the first one available: they use all grades and need no threshold.
DECISIVE = ("spearman", "map_at_r")
#: Subsets that decide, the first one available: those without annotated pairs are harder.
_SUBSETS = ("unannotated", "without annotated", "all", "with annotated")


def advice(rows: Sequence[CardRow]) -> Iterator[str]:
    """Yield one sentence a file, in the order of the card, and one where files are ordered best by other labels."""
    best: dict[str, set[str]] = {}
    for name in dict.fromkeys(row.judgements for row in rows):
        here = [row for row in rows if row.judgements == name]
        subset = next(subset for subset in _SUBSETS if any(row.subset == subset for row in here))
        chosen = [row for row in here if row.subset == subset]
        known = [row for row in chosen if row.kind != "patched" and np.isfinite(decisive(row).value)]
        if known:
            ordered = sorted(known, key=lambda row: -decisive(row).value)
            best.setdefault(_measure(ordered[0]), set()).add(ordered[0].label)
            yield _sentence(name, subset, ordered, chosen)
        yield from _changes(name, subset, chosen)
    graded, listed = best.get("spearman", set()), best.get("map_at_r", set())
    if graded and listed and not graded & listed:
        yield "The best label depends on the task: graded ratings and queries with many right answers have another one."


def _changes(name: str, subset: str, rows: Sequence[CardRow]) -> Iterator[str]:
    """Yield the effect of a patch on the label that agrees best without it."""
    patched = {(row.store, row.label): row for row in rows if row.kind == "patched"}
    pairs = [(row, patched[key]) for row in rows if (key := (row.store, f"{row.label} + patch")) in patched]
    pairs = [pair for pair in pairs if all(np.isfinite(decisive(row).value) for row in pair)]
    if pairs:
        before, after = max(pairs, key=lambda pair: decisive(pair[0]).value)
        moved = decisive(after).lead_over(decisive(before))
        interval = f"[{moved.low:+.3f}, {moved.high:+.3f}]" if np.isfinite(moved.low) else "(no interval)"
        yield f"{name} ({subset}): the patch moves {_called(before, rows)} by {moved.value:+.3f} {interval}."


def decisive(row: CardRow) -> Figure:
    """Return the figure that lines of a file are ordered by."""
    return row.figures[_measure(row)]


def _measure(row: CardRow) -> str:
    return next(name for name in DECISIVE if name in row.figures)


def _sentence(name: str, subset: str, ordered: Sequence[CardRow], rows: Sequence[CardRow]) -> str:
    best = ordered[0]
    begin = f"{name} ({subset}): {_called(best, rows)} agrees best, {_measure(best)} {decisive(best).value:.3f}"
    rivals = [row for row in ordered[1:] if best.kind == "teacher" or row.kind == "teacher"]
    if not rivals:
        return f"{begin}."
    rival = rivals[0]
    words = "the best single teacher" if best.kind == "fusion" else "the next"
    return f"{begin}; {_lead(best, rival)} over {_called(rival, rows)}, {words}."


def _lead(best: CardRow, rival: CardRow) -> str:
    one, two = decisive(best), decisive(rival)
    if one.replicates.shape != two.replicates.shape or best.pairs != rival.pairs:
        return f"+{one.value - two.value:.3f} (other pairs, no interval)"
    lead = one.lead_over(two)
    if not np.isfinite(lead.low):
        return f"{lead.value:+.3f} (no interval)"
    clear = "" if lead.low > 0 else ", not clear of zero"
    return f"+{lead.value:.3f} [{lead.low:.3f}, {lead.high:.3f}]{clear}"


def _called(row: CardRow, rows: Sequence[CardRow]) -> str:
    several = len({other.store for other in rows}) > 1
    return f"{row.label} of {row.store}" if several else row.label
