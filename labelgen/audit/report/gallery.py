"""Galleries for notebooks: findings with their images, without a script."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from labelgen.audit.report.findings import Finding, findings_of
from labelgen.audit.report.photos import photo_root, thumbnails
from labelgen.audit.report.sections import Section
from labelgen.store.reader import Store

if TYPE_CHECKING:
    import polars as pl

_CARD = "display:flex;gap:10px;border-bottom:1px solid #8886;padding:6px 0;overflow-wrap:anywhere"
_PICTURE = "width:112px;height:112px;object-fit:contain"


@dataclass(frozen=True)
class Gallery:
    """Findings, and small pictures by image id; made by `show`."""

    findings: tuple[Finding, ...]
    pictures: dict[str, str]

    def __repr__(self) -> str:
        return "\n".join(
            f"{finding.rank}. {finding.score}  " + "  ".join(f"{label}: {text}" for label, text in finding.lines)
            for finding in self.findings
        )

    def _repr_html_(self) -> str:
        return "".join(self._card(finding) for finding in self.findings) or "<i>nothing found</i>"

    def _card(self, finding: Finding) -> str:
        """Return the HTML of a finding; every text of the data set is escaped."""
        pictures = "".join(
            f'<img style="{_PICTURE}" alt="{escape(image)}" title="{escape(image)}" src="{self.pictures[image]}">'
            for image in finding.images
            if image in self.pictures
        )
        lines = "".join(f"<div><small>{escape(label)}</small> {escape(text)}</div>" for label, text in finding.lines)
        return f'<div style="{_CARD}">{pictures}<div><b>{finding.rank}</b> {escape(finding.score)}{lines}</div></div>'


def show(store: Store, frame: pl.DataFrame, *, count: int = 20, photos: str | Path | None = None) -> Gallery:
    """Show the first rows of a finding with their images: `show(store, false_negatives(store))`.

    Args:
        frame: result of a function of `labelgen.audit` for this store, with `image_id` or `caption_id`.
        count: maximum number of rows.
        photos: folder of the photographs; by default that of the data set in the store's recipe.

    Raises:
        UnknownIdError: images that are not in the store.
    """
    found = tuple(findings_of(Section("shown", "", "", frame, "", 0.0), count))
    root = Path(photos).expanduser() if photos is not None else photo_root(store)
    images = list(dict.fromkeys(image for finding in found for image in finding.images))
    return Gallery(found, thumbnails(store, root, images))
