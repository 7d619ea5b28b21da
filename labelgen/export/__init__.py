"""Files for the data loaders of released training codes, and neutral formats: `export(store, target, folder)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.export.base import Options, Written
    from labelgen.export.targets import TARGETS, export

__all__ = ["TARGETS", "Options", "Written", "export"]

_PLACES = {
    "TARGETS": "labelgen.export.targets:TARGETS",
    "Options": "labelgen.export.base:Options",
    "Written": "labelgen.export.base:Written",
    "export": "labelgen.export.targets:export",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
