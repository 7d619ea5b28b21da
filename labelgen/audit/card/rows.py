"""Values of an agreement card: its lines, notes and recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from labelgen.audit.card.measures import Figure

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class CardRow:
    """One label compared with one file.

    Attributes:
        store: name of the store.
        judgements: name of the file; `source` describes it.
        relation: of the judged pairs.
        label: a `BlockRequest` or the spec of a fusion.
        kind: `teacher` or `fusion`; `patched` for either with a patch, whose label ends in ` + patch`; `difference` for
            a label of a reduced precision less that of the same teacher in float32 (`i2t.low - i2t.text`).
        subset: `all` or `unannotated` pairs; of retrieval `with annotated` or `without annotated` partners.
        pairs: number of pairs compared (of retrieval: queries).
        images: number of images that the bootstrap draws: those of the left items (of retrieval: of the queries).
        sentences: number of sentences that it draws beside them: left items that are no captions of the store.
        figures: by measure.
    """

    store: str
    judgements: str
    source: str
    relation: str
    label: str
    kind: Literal["teacher", "fusion", "patched", "difference"]
    subset: str
    pairs: int
    images: int
    sentences: int
    figures: Mapping[str, Figure]

    def to_json(self) -> dict[str, Any]:
        """Return plain data; a measure that is not defined is null."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "figures"}
        return {**plain, "figures": {name: figure.to_json() for name, figure in self.figures.items()}}


@dataclass(frozen=True)
class AgreementCard:
    """Lines of a card, notes on what was left out, and which label agrees best.

    `complete` is False where the comparison was stopped before all lines were done.
    """

    rows: tuple[CardRow, ...]
    notes: tuple[str, ...] = ()
    recommendation: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    complete: bool = True

    @property
    def frame(self) -> pl.DataFrame:
        """Return one row a line and measure: value, low, high."""
        import polars as pl

        lines = [
            {
                **{key: value for key, value in row.to_json().items() if key != "figures"},
                "measure": name,
                **figure.to_json(),
            }
            for row in self.rows
            for name, figure in row.figures.items()
        ]
        return pl.DataFrame(lines, infer_schema_length=None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "settings": dict(self.settings),
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
            "recommendation": list(self.recommendation),
            "complete": self.complete,
        }


class CardInterrupted(KeyboardInterrupt):
    """The comparison was stopped (Ctrl-C); `card` has the lines that are done."""

    def __init__(self, card: AgreementCard) -> None:
        super().__init__()
        self.card = card
