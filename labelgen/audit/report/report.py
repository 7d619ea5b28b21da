"""The review page: one self-contained file of findings to accept or reject.

The page loads nothing: pictures are inlined, and its content security policy allows its own style and script by their
hashes and pictures from `data:` alone. Texts of the data set are in an escaped JSON block, and the script adds them to
the page as text. The browser saves decisions as the JSON form of `labelgen.patches.Patch`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from labelgen.audit.report.evidence_names import evidence_name
from labelgen.audit.report.findings import Finding, annotated_captions, count_of, findings_of
from labelgen.audit.report.photos import LARGE, SMALL, photo_root, thumbnails
from labelgen.audit.report.plots import plots
from labelgen.audit.report.sections import Section
from labelgen.patches.patch import Patch, read, validate
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store

_TEMPLATE = Path(__file__).with_name("report.html")
#: Maximum numbers of findings a section, of large pictures, and of all pictures.
SHOWN, LARGE_PICTURES, PICTURES = 200, 600, 2500
#: Sections that are shown first, the longer one before the other.
_FIRST = ("false_negatives", "noisy_pairs")


def write_report(
    store: Store,
    sections: Iterable[Section],
    path: str | Path,
    *,
    photos: str | Path | None = None,
    shown: int = SHOWN,
    patch: Patch | str | Path | None = None,
) -> Path:
    """Write the page.

    Args:
        sections: of `labelgen.audit.report.sections.audit_sections`.
        path: of the page; replaced atomically.
        photos: folder of the photographs; by default that of the data set in the store's recipe. Where it is missing
            the page has no pictures.
        shown: maximum number of findings of each section.
        patch: decisions of an earlier review, or their file. Findings that it accepts or rejects come back so, and the
            page saves all of its decisions again, those about other findings, too.

    Raises:
        StoreMismatchError, UnknownIdError, DatasetError: the patch does not fit the store, as for `patches.validate`.
        DiskError: the disk is full or read-only.
    """
    reviewed = read(patch) if isinstance(patch, str | Path) else patch
    if reviewed is not None:
        validate(reviewed, store)
    made = list(sections)
    found = [finding for section in made for finding in findings_of(section, shown)]
    root = photo_root(store, photos)
    target = Path(path).expanduser()
    page = render(store, made, found, _pictures(store, root, found), reviewed)
    write_atomic(target, page.encode("utf-8", "replace"))
    return target


def _pictures(store: Store, root: Path | None, found: Sequence[Finding]) -> dict[str, str]:
    """Return pictures by image id: large ones of the images in question of the first findings, small ones of others."""
    ranked = sorted(found, key=lambda finding: finding.rank)
    large = [image for finding in ranked for _, image in finding.images[: 2 if finding.pair else 1]]
    large = list(dict.fromkeys(large))[:LARGE_PICTURES]
    others = dict.fromkeys(image for finding in ranked for _, image in finding.images)
    small = [image for image in others if image not in set(large)][: PICTURES - len(large)]
    return thumbnails(store, root, large, LARGE) | thumbnails(store, root, small, SMALL)


def render(
    store: Store,
    sections: Sequence[Section],
    found: Sequence[Finding],
    pictures: dict[str, str],
    patch: Patch | None = None,
) -> str:
    """Return the page as text."""
    shown = Counter(finding.section for finding in found)
    first = sorted((item for item in sections if item.name in _FIRST), key=lambda item: -shown[item.name])
    ordered = [*first, *(item for item in sections if item.name not in _FIRST)]
    places = {section.name: place for place, section in enumerate(ordered)}
    listed = sorted(found, key=lambda finding: places[finding.section])
    data = {
        "store_id": store.manifest.store_id,
        "sections": [[item.name, item.title, item.meaning, item.note] for item in ordered if shown[item.name]],
        "evidence": {key: evidence_name(key) for finding in found for key, _ in finding.evidence},
        "captions": annotated_captions(store, found),
        "thumbnails": pictures,
        "sizes": _sizes(store, pictures),
        "findings": [item.to_json() for item in listed],
        "patch": [] if patch is None else patch.decisions,
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    corpus = store.manifest.corpus
    name = corpus.about.get("name") or str(store.manifest.recipe.get("dataset", {}).get("name", "store"))
    facts = [
        ("store", store.name),
        ("captions", f"{corpus.n_captions:,}, {corpus.n_texts:,} different"),
        ("teachers", "; ".join(f"{alias} = {entry.spec}" for alias, entry in store.manifest.teachers.items())),
        ("store id", store.manifest.store_id),
    ]
    tiles = [_tile(item, shown[item.name]) for item in ordered if shown[item.name]]
    values = {
        "POLICY": policy(page),
        "TITLE": escape(f"Audit of {name}"),
        "HEADING": escape(f"Audit of {name}"),
        "SIZE": f"{corpus.n_images:,} images, {corpus.n_captions:,} captions",
        "FIRST": "".join(tiles[:2]),
        "REST": "".join(tiles[2:]),
        "MORE": f"{len(tiles) - 2} more kinds of findings, filter, search" if len(tiles) > 2 else "Filter, search",
        "FACTS": _rows(facts),
        "PLOTS": plots(store),
        "NOTES": _rows((section.title, _noted(section)) for section in ordered),
        "DATA": json_block(data),
    }
    # one pass: a text of the data set that looks like a placeholder is not replaced
    return re.sub(r"@@([A-Z]+)@@", lambda match: values[match[1]], page)


def _sizes(store: Store, images: Iterable[str]) -> dict[str, list[int]]:
    """Return width and height of photographs by image id, which keep the place of a picture until it is drawn."""
    named = list(images)
    rows = store.image_rows(named, missing_ok=True)
    found = store.images.select("width", "height")[rows.clip(0).tolist()].rows()
    return {
        image: [width, height]
        for image, row, (width, height) in zip(named, rows.tolist(), found, strict=True)
        if row >= 0 and width and height
    }


def _tile(section: Section, shown: int) -> str:
    """Return the link to a section, with the number of its findings."""
    total = count_of(section)
    of = "" if shown >= total else f"<small>the first of {total:,}</small> "
    words = f'<b>{shown:,}</b> <span>{escape(section.title)}</span> {of}<small class="done"></small>'
    words += f'<small class="meaning">{escape(section.meaning)}</small>'
    return f'<a class="tile" href="#{escape(section.name)}">{words}</a>'


def policy(page: str) -> str:
    """Return the content security policy: the template's style and script by hash, pictures from `data:`."""

    def hashes(tag: str) -> str:
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; img-src data:; style-src {hashes('style')}; script-src {hashes('script')}; "
        "base-uri 'none'; form-action 'none'"
    )


def json_block(data: Any) -> str:
    """Return JSON that is safe between script tags: without `<`, `>`, `&` and line separators."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<span class="dim">{escape(what)}</span><span>{escape(value)}</span>' for what, value in pairs)


def _noted(section: Section) -> str:
    if section.frame is None:
        return f"not available: {section.note}"
    return section.note if section.frame.height else f"none; {section.note}"
