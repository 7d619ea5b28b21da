"""Findings as the page shows them: images, lines of text, evidence, and the decision that accepting one makes."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from labelgen.audit.report.sections import Section

#: Section -> decision of an accepted finding, and its words on the page.
DECISIONS: Mapping[str, tuple[str, str]] = {
    "false_negatives": ("add_positive", "the pair is right"),
    "noisy_pairs": ("mask_pair", "the pair is wrong"),
    "duplicate_captions": ("merge_duplicates", "same as the first of the group"),
    "duplicate_images": ("merge_duplicates", "same as the first of the group"),
}
#: Columns of text and their labels on the page, in this order.
_LINES = {
    "image_id": "image",
    "image_text": "nearest caption of the image",
    "siblings_text": "other captions of the image",
    "caption_id": "caption id",
    "text": "caption",
    "annotated_image_id": "annotated image",
    "other_image_id": "other image",
    "other_caption_id": "other caption id",
    "other_text": "other caption",
}
_HIDDEN = ("rank", "score", "group", "image_row", "caption_row", "other_image_row", "other_caption_row")


@dataclass(frozen=True)
class Finding:
    """One card of the page.

    Attributes:
        id: section and place, the same in every page of the same findings.
        images: ids of the images to show.
        decision: row of the patch if the finding is accepted; None where there is nothing to decide.
    """

    id: str
    section: str
    title: str
    rank: int
    score: str
    images: tuple[str, ...]
    lines: tuple[tuple[str, str], ...]
    evidence: tuple[tuple[str, str], ...]
    means: str = ""
    decision: Mapping[str, Any] | None = field(default=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `words` is the text that the search compares."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**plain, "words": " ".join(value for _, value in self.lines).lower()}


def findings_of(section: Section, shown: int) -> Iterator[Finding]:
    """Yield the first rows of a section; none where it has no frame, or rows that name no item."""
    if section.frame is None or not {"image_id", "caption_id"} & set(section.frame.columns):
        return
    first: dict[Any, dict[str, Any]] = {}
    frame = section.frame.rename({"own_image_id": "annotated_image_id"}, strict=False)  # its name in older frames
    for place, row in enumerate(frame.head(shown).to_dicts()):
        leader = first.setdefault(row.get("group"), row)
        decision, means = _decision(section.name, row, leader)
        names = [row.get(name) for name in ("image_id", "annotated_image_id", "other_image_id")]
        lines = tuple((label, str(row[name])) for name, label in _LINES.items() if row.get(name) is not None)
        score = row.get("score", row.get("similarity"))
        yield Finding(
            id=f"{section.name}/{place}",
            section=section.name,
            title=section.title,
            rank=int(row.get("rank") or place + 1),
            score="" if score is None else f"score {_number(score)}",
            images=tuple(dict.fromkeys(name for name in names if name is not None)),
            lines=lines,
            evidence=tuple(
                (name, _number(value))
                for name, value in row.items()
                if name not in _LINES and name not in _HIDDEN and value is not None
            ),
            means=means,
            decision=decision,
        )


def proposals(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Return the decisions of accepting every finding, for `Patch.of`."""
    served = [section for section in sections if section.frame is not None and section.name in DECISIONS]
    findings = (finding for section in served for finding in findings_of(section, sys.maxsize))
    return [{**finding.decision, "author": "labelgen audit"} for finding in findings if finding.decision is not None]


def _decision(section: str, row: Mapping[str, Any], leader: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    if section not in DECISIONS or (row is leader and section.startswith("duplicate")):
        return None, ""
    decision, means = DECISIONS[section]
    found: dict[str, Any] = {"decision": decision, "reason": section, "author": "review"}
    if decision == "merge_duplicates":
        kind = "caption_id" if section == "duplicate_captions" else "image_id"
        found |= {kind: row[kind], "into": leader[kind]}
    else:
        found |= {"image_id": row["image_id"], "caption_id": row["caption_id"]}
    score = row.get("score")
    if isinstance(score, float) and math.isfinite(score):
        found["score"] = score
    return found, means


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
