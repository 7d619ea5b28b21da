"""Galleries for notebooks: findings with their images, in the words and the order of the page, without a script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from labelgen.audit.checks.false_negatives import false_negatives
from labelgen.audit.report.evidence_names import evidence_name
from labelgen.audit.report.findings import Finding, annotated_captions, findings_of
from labelgen.audit.report.photos import photo_root, thumbnails
from labelgen.audit.report.sections import Section
from labelgen.errors import ConfigError
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store, as_store

if TYPE_CHECKING:
    import polars as pl

#: Longest side of a picture in pixels; small, since notebooks keep them.
SIDE = 256
_CARD = "display:flex;flex-wrap:wrap;gap:12px;border-bottom:1px solid #8886;padding:10px 0;overflow-wrap:anywhere"
_FIGURE = "margin:0;width:{width}px;max-width:100%;font-size:.8em;opacity:.85"
_PICTURE = "display:block;width:100%;aspect-ratio:4/3;object-fit:contain;object-position:0 0;border-radius:4px"
_LABEL = "font-size:.82em;opacity:.75;margin-top:4px"
_PAGE = (
    '<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
    '<body style="font:16px/1.45 system-ui,sans-serif;max-width:1000px;margin:1rem auto;padding:0 .8rem">{body}</body>'
    "</html>\n"
)


@dataclass(frozen=True)
class Gallery:
    """Findings, small pictures and annotated captions by image id; made by `show`. A notebook shows it as HTML."""

    findings: tuple[Finding, ...]
    pictures: Mapping[str, str]
    captions: Mapping[str, list[str]] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the gallery as one HTML file that loads nothing.

        Raises:
            DiskError: the disk is full or read-only.
        """
        target = Path(path).expanduser()
        page = _PAGE.format(title="Findings", body=self._repr_html_())
        write_atomic(target, page.encode("utf-8", "replace"))
        return target

    def __repr__(self) -> str:
        return "\n".join(
            f"{finding.rank}. {finding.score}  "
            + "  ".join(f"{label}: {text}" for label, text in (*finding.images, *finding.captions))
            for finding in self.findings
        )

    def _repr_html_(self) -> str:
        return "".join(self._card(finding) for finding in self.findings) or "<i>nothing found</i>"

    def _card(self, finding: Finding) -> str:
        """Return the HTML of a finding, images first; every text of the data set is escaped."""
        figures = "".join(self._figures(finding))
        return f'<div style="{_CARD}">{figures}<div style="flex:1 1 240px">{"".join(self._words(finding))}</div></div>'

    def _figures(self, finding: Finding) -> Iterator[str]:
        for place, (role, image) in enumerate(finding.images):
            if image in self.pictures:
                style = _FIGURE.format(width=SIDE if finding.pair or not place else SIDE // 2)
                source = f'alt="{escape(image)}" title="{escape(image)}" src="{self.pictures[image]}"'
                said = "" if role == "image" else escape(role)
                yield f'<figure style="{style}"><img style="{_PICTURE}" {source}>{said}</figure>'

    def _words(self, finding: Finding) -> Iterator[str]:
        yield f'<div style="{_LABEL}">{finding.rank} &middot; {escape(finding.score)}</div>'
        for label, text in finding.captions:
            yield f'<div style="{_LABEL}">{escape(label)}</div><div style="font-size:1.15em">{escape(text)}</div>'
        for label, texts in finding.others(self.captions):
            lines = "".join(f"<li>{escape(text)}</li>" for text in texts)
            yield f'<div style="{_LABEL}">{escape(label)}</div><ul style="margin:0;padding-left:1.2em">{lines}</ul>'
        lines = "".join(f"<div>{escape(label)}: {escape(value)}</div>" for label, value in finding.ids)
        for key, value in finding.evidence:
            name, sentence = evidence_name(key)
            lines += f"<div><b>{escape(name)}: {escape(value)}</b> {escape(sentence)}</div>"
        yield f"<details><summary>evidence and ids</summary><small>{lines}</small></details>"


def show(
    store: Store | str | Path, frame: pl.DataFrame | None = None, *, count: int = 20, photos: str | Path | None = None
) -> Gallery:
    """Show the first rows of a finding with their images: `show(store)`, `show(store, noisy_pairs(store))`.

    Args:
        store: an open store, or its folder.
        frame: result of a function of `labelgen.audit` for this store, with `image_id` or `caption_id`; by default the
            false negatives.
        count: maximum number of rows.
        photos: folder of the photographs; by default that of the data set in the store's recipe.

    Raises:
        UnknownIdError: images that are not in the store.
        ConfigError: not a polars frame of items; or none is given, and the store lacks what `false_negatives` needs.
    """
    import polars as pl

    store = as_store(store)
    rows = false_negatives(store, limit=max(count, 1000)) if frame is None else frame
    columns = rows.columns if isinstance(rows, pl.DataFrame) else None
    if columns is None or not {"image_id", "caption_id"} & set(columns):
        raise ConfigError(
            "a gallery shows rows that name images or captions",
            found=f"a {type(rows).__name__}" if columns is None else f"the columns {', '.join(columns) or '(none)'}",
            expected="a polars frame with image_id or caption_id",
            todo="pass what labelgen.audit returned; polars.from_pandas(frame) converts a pandas frame",
        )
    found = tuple(findings_of(Section("shown", "", "", rows, "", 0.0), count))
    root = photo_root(store, photos)
    images = list(dict.fromkeys(image for finding in found for _, image in finding.images))
    return Gallery(found, thumbnails(store, root, images, SIDE), annotated_captions(store, found))
