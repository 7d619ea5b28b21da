"""The answer to queries: a table, and a gallery in a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.report.photos import SMALL, photo_root, thumbnails
from labelgen.queries.rank import Ranked
from labelgen.similarity.exact import block_similarity
from labelgen.store.reader import Store
from labelgen.types import PAD_ROW, Float16, Int64, Relation

if TYPE_CHECKING:
    import polars as pl

_CARD = "display:flex;gap:10px;border-bottom:1px solid #8886;padding:6px 0;overflow-wrap:anywhere"
_PICTURE = "width:144px;height:144px;object-fit:contain"


@dataclass(frozen=True)
class QueryResult:
    """The answer to queries; a notebook shows it with the photographs.

    Attributes:
        frame: one row a query, list and candidate, the best first: `query` (the text, or the path of the photograph),
            `relation`, `alias`, `rank` (1 is the nearest), `score` (float32, the similarity), `split`, `image_id`,
            `caption_id`, `text`, `file`. The caption of an image is the one that is nearest to the query, or the
            first one where photographs are compared; null where it has none.
        notes: teachers that could not answer, and why.
        store: the store.
        photos: folder of the photographs; None for that of the data set in the store's recipe.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]
    store: Store = field(repr=False)
    photos: Path | None = None

    def __len__(self) -> int:
        return self.frame.height

    def __repr__(self) -> str:
        lines = []
        for title, rows in self.lists():
            lines += [title, *(f"  {row['rank']:>3}  {row['score']:.4f}  {_line(row)}" for row in rows)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def lists(self) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """A title and the rows of every list: `a dog: nearest images by text`."""
        keys = ("query", "relation", "alias")
        for (query, relation, alias), rows in self.frame.group_by(keys, maintain_order=True):
            kind = "images" if str(relation).endswith("i") else "captions"
            yield f"{query}: nearest {kind} by {alias} ({relation})", rows.to_dicts()

    def to_json(self) -> dict[str, Any]:
        return {"store": self.store.storage.name, "notes": list(self.notes), "results": self.frame.to_dicts()}

    @cached_property
    def _pictures(self) -> dict[str, str]:
        root = photo_root(self.store, self.photos)
        return thumbnails(self.store, root, list(dict.fromkeys(self.frame["image_id"])), SMALL)

    def _repr_html_(self) -> str:
        parts = [f"<h4>{escape(title)}</h4>" + "".join(self._card(row) for row in rows) for title, rows in self.lists()]
        notes = list(self.notes)
        if self.frame["file"].count() and not self._pictures:
            notes.append("no photographs: the data set is not where the recipe says; photos=... names their folder")
        return "".join([*parts, *(f"<p><i>{escape(note)}</i></p>" for note in notes)]) or "<i>nothing found</i>"

    def _card(self, row: Mapping[str, Any]) -> str:
        """A candidate; every text of the data set is escaped."""
        image = escape(row["image_id"])
        uri = self._pictures.get(row["image_id"])
        picture = f'<img style="{_PICTURE}" alt="{image}" title="{image}" src="{uri}">' if uri else ""
        words = f"<b>{row['rank']}</b> {row['score']:.4f} <small>{image} {escape(row['split'])}</small>"
        return f'<div style="{_CARD}">{picture}<div>{words}<div>{escape(row["text"] or "")}</div></div></div>'


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(str(part) for part in (row["image_id"], row["text"], row["file"]) if part)


def frame_of(store: Store, lists: Sequence[tuple[Ranked, Sequence[str], Float16]]) -> pl.DataFrame:
    """The rows of lists; each with the names of its queries and their rows [m, dim]."""
    import polars as pl

    schema = dict.fromkeys(("query", "relation", "alias"), pl.String) | {"rank": pl.UInt32, "score": pl.Float32}
    schema |= dict.fromkeys(("split", "image_id", "caption_id", "text", "file"), pl.String)
    made = [
        _rows(store, ranked, number, name, queries[number])
        for ranked, names, queries in lists
        for number, name in enumerate(names)
    ]
    return pl.concat([pl.DataFrame(schema=schema), *(frame.cast(schema) for frame in made)])  # type: ignore[arg-type]


def _rows(store: Store, ranked: Ranked, number: int, name: str, query: Float16) -> pl.DataFrame:
    import polars as pl

    found = ranked.rows[number]
    rows = found[found != PAD_ROW].astype(np.int64)
    by_image = ranked.relation in (Relation.T2I, Relation.I2I)
    images = rows if by_image else store.image_of(rows)
    captions = _shown_captions(store, ranked, images, query) if by_image else rows
    there = captions >= 0
    texts = store.captions[captions[there]].select("caption_id", "text")
    words = {column: np.full(len(captions), None, object) for column in ("caption_id", "text")}
    for column, values in words.items():
        values[there] = texts[column].to_list()
    return pl.DataFrame(
        {
            "query": [name] * len(rows),
            "relation": [ranked.relation.value] * len(rows),
            "alias": [ranked.alias] * len(rows),
            "rank": np.arange(1, len(rows) + 1),
            "score": ranked.scores[number][: len(rows)],
            **dict(store.images[images].select("split", "image_id").to_dict()),
            **{column: values.tolist() for column, values in words.items()},
            "file": store.images[images]["file"],
        }
    )


def _shown_captions(store: Store, ranked: Ranked, images: Int64, query: Float16) -> Int64:
    """The caption of every image that the answer shows: the nearest one, or the first; -1 for none."""
    chosen = np.full(len(images), -1)
    compared = ranked.relation is Relation.T2I
    embeddings = store.embeddings(ranked.alias, "text") if compared else None
    for place, image in enumerate(images.tolist()):
        captions = store.captions_of(image)
        if not len(captions):
            continue
        scores = block_similarity(query[None], embeddings.take(captions))[0] if embeddings is not None else [0.0]
        chosen[place] = captions[int(np.argmax(scores))]
    return chosen
