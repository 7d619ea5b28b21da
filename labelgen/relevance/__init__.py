"""Similarity to relevance: schemes and transforms, pure functions of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.relevance import transforms
    from labelgen.relevance.assemble import Pipeline
    from labelgen.relevance.base import BlockRequest, Blocks, Scheme, SoftLabels, scheme

__all__ = ["BlockRequest", "Blocks", "Pipeline", "Scheme", "SoftLabels", "scheme", "transforms"]

_PLACES = {
    "BlockRequest": "labelgen.relevance.base:BlockRequest",
    "Blocks": "labelgen.relevance.base:Blocks",
    "Pipeline": "labelgen.relevance.assemble:Pipeline",
    "Scheme": "labelgen.relevance.base:Scheme",
    "SoftLabels": "labelgen.relevance.base:SoftLabels",
    "scheme": "labelgen.relevance.base:scheme",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, ("transforms",))
