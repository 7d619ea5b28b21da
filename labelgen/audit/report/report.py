"""The report: one self-contained page of findings to look at and decide on.

The page loads nothing: pictures are inlined, and a policy in its head allows its own style and script by their hashes
and pictures from `data:` alone. What comes from a data set is data: it lies in a JSON block that cannot be left, and
the script puts it into the page as text. A browser saves decisions as the JSON form of `labelgen.patches.Patch`.
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
#: Findings of a section that the page shows, and pictures in all: about 4 kB each.
SHOWN, PICTURES = 200, 2500


def write_report(
    store: Store, sections: Iterable[Section], path: str | Path, *, photos: str | Path | None = None, shown: int = SHOWN
) -> Path:
    """Write the page.

    Args:
        sections: what `labelgen.audit.report.sections.audit_sections` gives.
        path: of the page; replaced at once.
        photos: folder of the photographs; where the data set lies by the store's recipe when None. Without
            photographs the page has none.
        shown: findings of each section at most.

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
    """The page as text; pure."""
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
    # One pass: a text of the data set that looks like a place of the template stays what it is.
    return re.sub(r"@@([A-Z]+)@@", lambda match: values[match[1]], page)


def policy(page: str) -> str:
    """The content security policy of the template: its own style and script by hash, pictures from `data:`."""

    def hashes(tag: str) -> str:
        bodies = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; img-src data:; style-src {hashes('style')}; script-src {hashes('script')}; "
        "base-uri 'none'; form-action 'none'"
    )


def json_block(data: Any) -> str:
    """JSON that is safe between script tags: no `<`, `>`, `&` or line separators are left in it."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _rows(pairs: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<span class="dim">{escape(what)}</span><span>{escape(value)}</span>' for what, value in pairs)


def _noted(section: Section) -> str:
    return section.note if section.frame is not None else f"not in this store: {section.note}"
