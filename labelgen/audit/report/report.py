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
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from labelgen.audit.report.findings import Finding, findings_of
from labelgen.audit.report.photos import photo_root, thumbnails
from labelgen.audit.report.plots import plots
from labelgen.audit.report.sections import Section
from labelgen.store.disk.atomic import write_atomic
from labelgen.store.reader import Store

_TEMPLATE = Path(__file__).with_name("report.html")
#: Maximum numbers of findings a section and of pictures, about 4 kB each.
SHOWN, PICTURES = 200, 2500


def write_report(
    store: Store, sections: Iterable[Section], path: str | Path, *, photos: str | Path | None = None, shown: int = SHOWN
) -> Path:
    """Write the page.

    Args:
        sections: of `labelgen.audit.report.sections.audit_sections`.
        path: of the page; replaced atomically.
        photos: folder of the photographs; by default that of the data set in the store's recipe. Where it is missing
            the page has no pictures.
        shown: maximum number of findings of each section.

    Raises:
        DiskError: the disk is full or read-only.
    """
    made = list(sections)
    found = [finding for section in made for finding in findings_of(section, shown)]
    root = Path(photos).expanduser() if photos is not None else photo_root(store)
    wanted = list(dict.fromkeys(image for finding in found for image in finding.images))[:PICTURES]
    target = Path(path).expanduser()
    write_atomic(target, render(store, made, found, thumbnails(store, root, wanted)).encode("utf-8", "replace"))
    return target


def render(store: Store, sections: Sequence[Section], found: Sequence[Finding], pictures: dict[str, str]) -> str:
    """Return the page as text."""
    data = {
        "store_id": store.manifest.store_id,
        "sections": [[name, title] for name, title in dict.fromkeys((item.section, item.title) for item in found)],
        "thumbnails": pictures,
        "findings": [item.to_json() for item in found],
    }
    page = _TEMPLATE.read_text(encoding="utf-8")
    corpus = store.manifest.corpus
    name = corpus.about.get("name") or str(store.manifest.recipe.get("dataset", {}).get("name", "store"))
    facts = [
        ("store", store.path.name),
        ("images", f"{corpus.n_images:,}"),
        ("captions", f"{corpus.n_captions:,}, {corpus.n_texts:,} different"),
        ("teachers", "; ".join(f"{alias} = {entry.spec}" for alias, entry in store.manifest.teachers.items())),
        ("store id", store.manifest.store_id),
    ]
    values = {
        "POLICY": policy(page),
        "TITLE": escape(f"Audit of {name}"),
        "HEADING": escape(f"Audit of {name}"),
        "FACTS": _rows(facts),
        "PLOTS": plots(store),
        "SECTIONS": _rows((section.title, _noted(section)) for section in sections),
        "DATA": json_block(data),
    }
    # one pass: a text of the data set that looks like a placeholder is not replaced
    return re.sub(r"@@([A-Z]+)@@", lambda match: values[match[1]], page)


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
    return section.note if section.frame is not None else f"not available: {section.note}"
