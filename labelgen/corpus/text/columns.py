"""Usual names of columns, for tables that do not have the names of labelgen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

#: Meaning -> names, the preferred one first. They count only where the first one is missing.
USUAL: Mapping[str, Sequence[str]] = {
    "image_id": ("image_id", "img_id", "imgid"),
    "image": ("file_name", "image", "filename", "filepath", "image_path", "path", "file", "img", "photo"),
    "caption": ("caption", "captions", "text", "title", "sentence", "sentences", "description"),
}


def usual_column(meaning: str, present: Collection[str]) -> str:
    """The first usual name of a meaning among the columns of a table (in any case), empty if there is none."""
    by_name = {name.lower(): name for name in reversed(list(present))}
    return next((by_name[name] for name in USUAL.get(meaning, (meaning,)) if name in by_name), "")
