"""labelgen: offline soft labels for image-text retrieval.

The public names are loaded when they are first used: importing labelgen costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.errors import LabelgenError
    from labelgen.loader.blocks import soft_labels
    from labelgen.pipeline import append, build, plan, verify
    from labelgen.store.kind_store import open_kinds as open  # noqa: A004 - `labelgen.open` is the name users see
    from labelgen.store.reader import Store

    __version__: str

__all__ = ["LabelgenError", "Store", "__version__", "append", "build", "open", "plan", "soft_labels", "verify"]

_PLACES = {
    "LabelgenError": "labelgen.errors:LabelgenError",
    "Store": "labelgen.store.reader:Store",
    "append": "labelgen.pipeline:append",
    "build": "labelgen.pipeline:build",
    "open": "labelgen.store.kind_store:open_kinds",
    "plan": "labelgen.pipeline:plan",
    "soft_labels": "labelgen.loader.blocks:soft_labels",
    "verify": "labelgen.pipeline:verify",
    "__version__": "labelgen.version:VERSION",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
