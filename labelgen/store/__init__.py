"""The store: one folder that any zarr v3 or parquet reader opens, and that training reads at memory speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.store import inspect
    from labelgen.store.items import Neighbors
    from labelgen.store.reader import Store, open_store

__all__ = ["Neighbors", "Store", "inspect", "open_store"]

_PLACES = {
    "Neighbors": "labelgen.store.items:Neighbors",
    "Store": "labelgen.store.reader:Store",
    "open_store": "labelgen.store.reader:open_store",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, ("inspect",))
