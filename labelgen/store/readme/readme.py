"""The readme of a store: `README.md` for people and `croissant.json` for search engines, both made from the manifest.

Texts that come from a data set are escaped, because README files are shown as HTML.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from labelgen.errors import visible
from labelgen.store import layout
from labelgen.store.describe import human_bytes, judged, list_text, training_text
from labelgen.store.disk.atomic import FileFact, write_atomic
from labelgen.store.disk.files import open_below
from labelgen.store.manifest import Manifest
from labelgen.store.readme.croissant import render_croissant, table_paths

_RELATIONS = {
    "t2t": "caption -> captions",
    "i2i": "image -> images",
    "i2t": "image -> captions",
    "t2i": "caption -> images",
}

#: What begins code, links, pictures, columns, emphasis or a backslash escape in Markdown.
_MARKS = frozenset("|`[]\\*~!")

_USE = """```python
import labelgen

store = labelgen.open("path/to/this/folder")
store.images, store.captions                      # polars frames
store.block("{relation}", {arguments})            # exact similarities of a batch
```

Without labelgen: the tables are parquet, the arrays are zarr v3 (`zarr.open("path/to/this/folder")`). Row i of an
embedding is `image_row` or `caption_row` i of the tables; the captions of image v are the rows
`offsets[v]:offsets[v + 1]`. In neighbour lists `ids` are such rows, 4294967295 fills short lists, and `next` bounds the
score of everything that is not listed (NaN where a list is approximate). Check the folder with `labelgen verify`."""


def write_card(root: Path, manifest: Manifest) -> dict[str, FileFact]:
    """Write `README.md` and `croissant.json`; returns their facts by path, for the manifest's `files`.

    The entries of the two in `manifest.files` do not matter. The tables must exist: Croissant requires their SHA-256.
    """
    return {path: write_atomic(root / path, data) for path, data in rendered(manifest, root).items()}


def rendered(manifest: Manifest, tables: Path) -> dict[str, bytes]:
    """The bytes of both files by path; `tables` is the folder that the tables of the corpus are below."""
    checksums = {path: _sha256(tables, path) for path in table_paths(manifest)}
    document = render_croissant(manifest, checksums)
    return {
        layout.CARD: render_readme(manifest).encode(errors="backslashreplace"),
        layout.CROISSANT: (json.dumps(document, indent=1) + "\n").encode(),
    }


def render_readme(manifest: Manifest) -> str:
    """The card in Markdown."""
    corpus, quarantine = manifest.corpus, manifest.quarantine
    name = markdown_cell(corpus.about.get("name") or manifest.recipe.get("dataset", {}).get("name", "unknown"))
    counts = f"{corpus.n_images:,} images, {corpus.n_captions:,} captions, {corpus.n_texts:,} different texts"
    splits = [
        (split, f"{len(rows):,}", ", ".join(f"{part.start:,} to {part.stop - 1:,}" for part in rows.ranges))
        for split, rows in corpus.splits.items()
    ]
    teachers = [(alias, t.spec, " and ".join(t.modalities), t.dim) for alias, t in manifest.teachers.items()]
    lists = [
        (
            *(entry.path, _RELATIONS[entry.relation], entry.alias, entry.aggregation, entry.scope, entry.k),
            list_text(entry) or "exact",
        )
        for entry in manifest.neighbors
    ]
    reasons = [(row["stage"], row["reason"], f"{row['count']:,}") for row in quarantine.by_reason]
    sections = [
        f"# Soft labels for {name}",
        f"A soft-label store (format {manifest.format}) for image-text retrieval: {counts}, {_size(manifest)}, sealed "
        f"{manifest.created} by labelgen {markdown_cell(manifest.labelgen)}. Content `{manifest.content_digest}`.",
        "## How to read it",
        _USE.format(**_example(manifest)),
        "## Splits",
        _table(("split", "images", "image rows"), splits),
        *_kinds(manifest),
        "## Teachers",
        _table(("alias", "teacher", "rows of", "length"), teachers),
        *_trained(manifest),
        "## Neighbour lists",
        _table(("folder", "relation", "teacher", "aggregation", "scope", "k", "search"), lists) if lists else "None.",
        "## What could not be used",
        _table(("stage", "reason", "items"), reasons) if reasons else "Nothing: every item was used.",
        "## Data",
        _about(corpus.about),
    ]
    return "\n\n".join(sections) + "\n"


def _kinds(manifest: Manifest) -> list[str]:
    """A section on kinds of captions; nothing where they have none."""
    rows = [(kind, f"{count:,}") for kind, count in manifest.corpus.kinds.items()]
    return ["## Kinds of captions", _table(("kind", "captions"), rows)] if rows else []


def _trained(manifest: Manifest) -> list[str]:
    """A section on teachers that were trained in the build; nothing where there is none."""
    trained = {alias: entry for alias, entry in manifest.teachers.items() if entry.training}
    rows = [
        (alias, entry.identity["of"], part, f"{pairs:,}", f"{frozen:.4f}", f"{made:.4f}")
        for alias, entry in trained.items()
        for part, pairs, frozen, made in judged(entry.training)
    ]
    head = ("teacher", "trained on the rows of", "part", "pairs", "AUC before", "AUC after")
    tables = [_table(head, rows)] if rows else []
    others = [
        (alias, line)
        for alias, entry in trained.items()
        if "auc" not in entry.training
        for line in training_text(entry.training).splitlines()
    ]
    tables += [_table(("teacher", "report"), others)] if others else []
    return ["## Trained in the build", *tables] if tables else []


def _size(manifest: Manifest) -> str:
    """Bytes of the content: the card is itself a file of the store, so it cannot name the size of all."""
    return human_bytes(sum(fact.bytes for path, fact in manifest.files.items() if layout.is_content(path)))


def _example(manifest: Manifest) -> dict[str, str]:
    has_texts = any(entry.modality == "text" for entry in manifest.embeddings)
    relation = "i2t" if has_texts else "i2i"
    return {"relation": relation, "arguments": "image_ids, caption_ids" if has_texts else "image_ids"}


def _about(about: Mapping[str, str]) -> str:
    """Known facts of the data; silence about a licence must not look like a permission."""
    known = [f"- {markdown_cell(key)}: {markdown_cell(value)}" for key, value in about.items() if value]
    if not about.get("licence"):
        known.append("- licence: not known to labelgen; ask where the data came from before you share this folder")
    return "\n".join(known)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([markdown_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_cell(value: Any) -> str:
    """Text that is safe in a Markdown table: one line, printable, no HTML, no column borders, no marks of Markdown."""
    text = escape(visible(" ".join(str(value).split())))
    return "".join(f"&#{ord(mark)};" if mark in _MARKS else mark for mark in text)


def _sha256(root: Path, path: str) -> str:
    with open_below(root, path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
