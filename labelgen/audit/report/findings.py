"""Findings as the page shows them: images, captions, evidence, and the decision that accepting one makes."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from labelgen.audit.report.evidence_names import evidence_key
from labelgen.audit.report.sections import Section
from labelgen.store.reader import Store

Row: TypeAlias = Mapping[str, Any]
#: A label of the page, and a text or an id of the data set.
Line: TypeAlias = tuple[str, str]

#: Section -> decision of an accepted finding, and what accepting and rejecting one say.
DECISIONS: Mapping[str, tuple[str, str, str]] = {
    "false_negatives": ("add_positive", "it describes the image", "it does not"),
    "noisy_pairs": ("mask_pair", "the caption is wrong", "the caption is right"),
    "duplicate_captions": ("merge_duplicates", "the same caption: merge", "not the same"),
    "duplicate_images": ("merge_duplicates", "the same image: merge", "not the same"),
    "caption_leakage": ("drop_caption", "drop the caption of {split}", "keep both"),
    "image_leakage": ("drop_image", "drop the image of {split}", "keep both"),
    "hub_captions": ("drop_caption", "drop the caption", "keep it"),
    "hub_images": ("drop_image", "drop the image", "keep it"),
    "isolated_captions": ("drop_caption", "drop the caption", "keep it"),
    "isolated_images": ("drop_image", "drop the image", "keep it"),
    "agreement": ("drop_caption", "drop the caption", "keep it"),
}
#: Sections of which all findings may be accepted without a look; the others rank items, most of which are as they
#: should be.
PROPOSED = ("false_negatives", "noisy_pairs", "duplicate_captions", "duplicate_images")

_IDS = {
    "image_id": "image id",
    "caption_id": "caption id",
    "annotated_image_id": "annotated image id",
    "other_image_id": "other image id",
    "other_caption_id": "other caption id",
}
#: Columns that are shown elsewhere on a card, or not at all.
_NO_EVIDENCE = frozenset(
    {*_IDS, "rank", "score", "group", "text", "image_text", "siblings_text", "other_text"}
    | {f"{prefix}{kind}_row" for prefix in ("", "other_") for kind in ("image", "caption")}
)
#: Annotated captions of an image that are shown, and characters of each.
_CAPTIONS, _CHARACTERS = 10, 500


@dataclass(frozen=True)
class Finding:
    """One card of the page.

    Attributes:
        id: section and place, the same in every page of the same findings.
        images: role and id of the images to show, the one in question first.
        pair: whether two images are compared; otherwise the second one is only there to explain the first.
        captions: label and text, the one in question first.
        annotated: label, and id of the image whose annotated captions to show; those in `captions` are left out.
        ids: label and id of everything the finding names.
        evidence: key of `evidence_names.EVIDENCE` and value.
        accept, reject: what the two verdicts say.
        decision: row of the patch if the finding is accepted; None where there is nothing to decide.
    """

    id: str
    section: str
    title: str
    rank: int
    score: str
    images: tuple[Line, ...]
    pair: bool
    captions: tuple[Line, ...]
    annotated: tuple[Line, ...]
    ids: tuple[Line, ...]
    evidence: tuple[Line, ...]
    accept: str = ""
    reject: str = ""
    decision: Mapping[str, Any] | None = None

    def others(self, captions: Mapping[str, list[str]]) -> Iterator[tuple[str, list[str]]]:
        """Yield label and annotated captions of each image in `annotated`, without the texts of `self.captions`."""
        said = {cut(text) for _, text in self.captions}
        for label, image in self.annotated:
            rest = [text for text in captions.get(image, ()) if text not in said or not label.startswith("other")]
            if rest:
                yield label, rest

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def findings_of(section: Section, shown: int) -> Iterator[Finding]:
    """Yield the first findings of a section; none where it has no frame, or rows that name no item.

    The first member of a group of duplicates is shown beside each of the others.
    """
    frame = section.frame
    if frame is None or not {"image_id", "caption_id"} & set(frame.columns):
        return
    frame = frame.rename({"own_image_id": "annotated_image_id"}, strict=False)  # its name in older frames
    rows = frame.head(2 * shown).to_dicts()  # a group has at least one other member
    sizes = Counter(row.get("group") for row in rows)
    first: dict[Any, Row] = {}
    left = shown
    for place, row in enumerate(rows):
        leader = first.setdefault(row["group"], row) if row.get("group") is not None else None
        if left > 0 and (leader is not row or sizes[row["group"]] == 1):
            left -= 1
            yield _finding(section, place, row, None if leader is row else leader)


def annotated_captions(store: Store, findings: Iterable[Finding]) -> dict[str, list[str]]:
    """Return image id -> its annotated captions, for the images of `Finding.annotated`.

    At most 10 an image, cut at 500 characters; images that are not in the store are left out.
    """
    named = list(dict.fromkeys(image for finding in findings for _, image in finding.annotated))
    texts = store.captions["text"]
    return {
        image: [cut(text or "") for text in texts.gather(store.captions_of(row)[:_CAPTIONS]).to_list()]
        for image, row in zip(named, store.image_rows(named, missing_ok=True).tolist(), strict=True)
        if row >= 0
    }


def cut(text: str) -> str:
    """Return at most the first 500 characters of a text."""
    return text if len(text) <= _CHARACTERS else text[: _CHARACTERS - 1] + "…"


def count_of(section: Section) -> int:
    """Return the number of findings of a section, as `findings_of` counts them."""
    frame = section.frame
    if frame is None or not {"image_id", "caption_id"} & set(frame.columns):
        return 0
    return frame.height - (frame["group"].n_unique() if "group" in frame.columns else 0)


def proposals(sections: Iterable[Section]) -> list[dict[str, Any]]:
    """Return the decisions of accepting every finding of the sections `PROPOSED`, for `Patch.of`."""
    served = [section for section in sections if section.frame is not None and section.name in PROPOSED]
    findings = (finding for section in served for finding in findings_of(section, sys.maxsize // 2))
    return [{**finding.decision, "author": "labelgen audit"} for finding in findings if finding.decision is not None]


def _finding(section: Section, place: int, row: Row, leader: Row | None) -> Finding:
    score = row.get("score", row.get("similarity"))
    images, captions, annotated = _shown(row, leader)
    decision, accept, reject = _decision(section.name, row, leader)
    evidence = (
        (evidence_key(name, grouped="group" in row), _value(value))
        for name, value in row.items()
        if name not in _NO_EVIDENCE and value is not None
    )
    return Finding(
        id=f"{section.name}/{place}",
        section=section.name,
        title=section.title,
        rank=int(row.get("rank") or place + 1),
        score="" if score is None else f"score {_value(score)}",
        images=images,
        pair=len(images) > 1 and "annotated_image_id" not in row,
        captions=captions,
        annotated=annotated,
        ids=tuple((label, str(row[name])) for name, label in _IDS.items() if row.get(name) is not None),
        evidence=tuple(evidence),
        accept=accept,
        reject=reject,
        decision=decision,
    )


def _shown(row: Row, leader: Row | None) -> tuple[tuple[Line, ...], tuple[Line, ...], tuple[Line, ...]]:
    """Return images with roles, captions with labels, and images whose annotated captions are shown."""
    if leader is not None:
        return _compared(row, leader, "", "of the first of the group")
    if row.get("other_image_id") is not None or row.get("other_caption_id") is not None:
        other = {name.removeprefix("other_"): value for name, value in row.items() if name.startswith("other_")}
        return _compared(row, other, *(f"of {side.get('split') or 'another split'}" for side in (row, other)))
    image, text, owner = row.get("image_id"), row.get("text"), row.get("annotated_image_id")
    if owner is not None and owner != image:
        images = _lines(("image", image), ("image that the candidate caption was written for", owner))
        return images, _lines(("candidate caption", text)), _lines(("annotated captions", image))
    word = "caption in doubt" if "siblings_text" in row else "caption"
    return _lines(("image", image)), _lines((word, text)), _lines(("other annotated captions", image))


def _compared(
    row: Row, other: Row, here: str, there: str
) -> tuple[tuple[Line, ...], tuple[Line, ...], tuple[Line, ...]]:
    """Return what is shown of two items that are equal or nearly equal."""
    sides = ((here, row), (there, other))
    shown = sides if row.get("image_id") != other.get("image_id") else sides[:1]
    annotated = () if row.get("caption_id") is not None else shown
    return (
        _lines(*((f"image {where}", side.get("image_id")) for where, side in shown)),
        _lines(*((f"caption {where}", side.get("text")) for where, side in sides)),
        _lines(*((f"other annotated captions {where}", side.get("image_id")) for where, side in annotated)),
    )


def _lines(*pairs: tuple[str, Any]) -> tuple[Line, ...]:
    return tuple((label.strip(), str(text)) for label, text in pairs if text is not None)


def _decision(section: str, row: Row, leader: Row | None) -> tuple[dict[str, Any] | None, str, str]:
    if section not in DECISIONS:
        return None, "", ""
    decision, accept, reject = DECISIONS[section]
    kind = "image_id" if decision == "drop_image" or section == "duplicate_images" else "caption_id"
    if decision == "merge_duplicates":
        ids = {kind: row.get(kind), "into": (leader or {}).get(kind)}
    elif decision in ("add_positive", "mask_pair"):
        ids = {"image_id": row.get("image_id"), "caption_id": row.get("caption_id")}
    else:
        # of two splits, the one to train on loses the item: the other one is what results are compared on
        side = "other_" if section.endswith("leakage") and row.get("split") != "train" else ""
        ids = {kind: row.get(side + kind)}
        accept = accept.format(split=row.get(f"{side}split") or "the first split")
    if None in ids.values():
        return None, "", ""
    found: dict[str, Any] = {"decision": decision, "reason": section, "author": "review"}
    found |= {name: str(value) for name, value in ids.items()}
    score = row.get("score")
    if isinstance(score, float) and math.isfinite(score):
        found["score"] = score
    return found, accept, reject


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
