"""labelgen: offline soft labels for image-text retrieval.

The public names are loaded when they are first used: importing labelgen costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.config import BuildConfig
    from labelgen.errors import LabelgenError
    from labelgen.loader.blocks import soft_labels
    from labelgen.pipeline import add, append, build, plan, resolve, status, verify
    from labelgen.store.reader import Store
    from labelgen.store.reader import open_store as open  # noqa: A004 - `labelgen.open` is the name users see
    from labelgen.teachers.objects.given_teacher import as_teacher

    __version__: str

__all__ = [
    "BuildConfig",
    "LabelgenError",
    "Store",
    "__version__",
    "add",
    "append",
    "as_teacher",
    "build",
    "open",
    "plan",
    "resolve",
    "soft_labels",
    "status",
    "verify",
]

_PLACES = {
    "BuildConfig": "labelgen.config:BuildConfig",
    "LabelgenError": "labelgen.errors:LabelgenError",
    "Store": "labelgen.store.reader:Store",
    "add": "labelgen.pipeline:add",
    "append": "labelgen.pipeline:append",
    "as_teacher": "labelgen.teachers.objects.given_teacher:as_teacher",
    "build": "labelgen.pipeline:build",
    "open": "labelgen.store.reader:open_store",
    "plan": "labelgen.pipeline:plan",
    "resolve": "labelgen.pipeline:resolve",
    "soft_labels": "labelgen.loader.blocks:soft_labels",
    "status": "labelgen.pipeline:status",
    "verify": "labelgen.pipeline:verify",
    "__version__": "labelgen.version:VERSION",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
