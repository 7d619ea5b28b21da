"""Rules for the decisions of a patch: known, complete, and free of contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

#: decision, image_id, caption_id, into
Row: TypeAlias = tuple[str | None, str | None, str | None, str | None]

#: Before the name of a decision: it was proposed and rejected.
REJECT = "reject_"
_DECISIONS: Mapping[str, tuple[tuple[bool, bool, bool], ...]] = {
    "add_positive": ((True, True, False),),
    "mask_pair": ((True, True, False),),
    "drop_caption": ((False, True, False),),
    "drop_image": ((True, False, False),),
    "merge_duplicates": ((True, False, True), (False, True, True)),
}
#: Which of image_id, caption_id and into a decision names; merge_duplicates has two forms. Rejections name the same.
FORMS: Mapping[str, tuple[tuple[bool, bool, bool], ...]] = {
    **_DECISIONS,
    **{REJECT + name: forms for name, forms in _DECISIONS.items()},
}
_NAMES = ("image_id", "caption_id", "into")


def problems(rows: Sequence[Row]) -> list[str]:
    """Return everything that is wrong with decisions, as sentences with ids; empty when they are consistent."""
    found = [problem for row in rows if (problem := _shape(row))]
    made = [row for row in rows if not is_rejection(row[0])]
    return found or [*_twice(rows), *_rejected(rows, made), *_pairs(made), *_drops(made), *_merges(made)]


def is_rejection(decision: str | None) -> bool:
    """Return whether a decision is the rejection of one."""
    return decision is not None and decision.startswith(REJECT)


def _shape(row: Row) -> str:
    decision, *values = row
    if decision is None or decision not in FORMS:
        return f"there is no decision {decision!r}: one of {', '.join(_DECISIONS)}, or one of them after {REJECT!r}"
    given = tuple(value is not None for value in values)
    if given in FORMS[decision]:
        return ""
    wanted = " or ".join(
        " and ".join(name for name, used in zip(_NAMES, form, strict=True) if used) for form in FORMS[decision]
    )
    return f"{_described(row)} must name {wanted}, and nothing else"


def _twice(rows: Sequence[Row]) -> Iterator[str]:
    seen: set[Row] = set()
    for row in rows:
        if row in seen:
            yield f"{_described(row)} is there twice"
        seen.add(row)


def _rejected(rows: Sequence[Row], made: Sequence[Row]) -> Iterator[str]:
    """Yield rejections of decisions that the patch holds, too."""
    accepted = {_compared(row) for row in made}
    for row in rows:
        if is_rejection(row[0]) and _compared(row) in accepted:
            yield f"{_described(row)} contradicts the same decision, which is accepted"


def _compared(row: Row) -> tuple[str, frozenset[tuple[str, str | None]]]:
    """Return what a decision and its rejection have in common; merging a into b is merging b into a."""
    decision = (row[0] or "").removeprefix(REJECT)
    names = ("image", "caption", "into")
    if decision == "merge_duplicates":
        names = ("image", "caption", "image" if row[1] is not None else "caption")
    return decision, frozenset(item for item in zip(names, row[1:], strict=True) if item[1] is not None)


def _pairs(rows: Sequence[Row]) -> Iterator[str]:
    added = {row[1:3] for row in rows if row[0] == "add_positive"}
    for row in rows:
        if row[0] == "mask_pair" and row[1:3] in added:
            yield f"the pair {row[1]!r} / {row[2]!r} is added and masked"


def _drops(rows: Sequence[Row]) -> Iterator[str]:
    """Yield decisions that name a dropped item."""
    images = {row[1] for row in rows if row[0] == "drop_image"}
    captions = {row[2] for row in rows if row[0] == "drop_caption"}
    for row in rows:
        if row[0] in ("drop_image", "drop_caption"):
            continue
        other = (row[3] in images) if row[1] is not None and row[2] is None else (row[3] in captions)
        if (
            (row[1] is not None and row[1] in images)
            or (row[2] is not None and row[2] in captions)
            or (row[3] and other)
        ):
            yield f"{_described(row)} names an item that is dropped"


def _merges(rows: Sequence[Row]) -> Iterator[str]:
    for place, kind in ((1, "image"), (2, "caption")):
        target: dict[str, str] = {}
        for row in rows:
            item, into = row[place], row[3]
            if row[0] != "merge_duplicates" or item is None or into is None:
                continue
            if target.setdefault(item, into) != into:
                yield f"{kind} {item!r} is merged into {target[item]!r} and into {into!r}"
        for item in target:
            if root_of(item, target) is None:
                yield f"{kind} {item!r} is merged into itself"


def root_of(item: str, target: Mapping[str, str]) -> str | None:
    """Return the item that an item is merged into in the end, itself if it is not merged; None in a circle."""
    seen = {item}
    while item in target:
        item = target[item]
        if item in seen:
            return None
        seen.add(item)
    return item


def _described(row: Row) -> str:
    return " ".join([str(row[0]), *(repr(value) for value in row[1:] if value is not None)])
