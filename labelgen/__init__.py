"""labelgen: offline soft labels for image-text retrieval.

The public names are loaded when they are first used: importing labelgen costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen import audit, errors, export, loader, losses, patches, registry, relevance, resources, store, testing
    from labelgen.config import BuildConfig
    from labelgen.errors import LabelgenError
    from labelgen.loader.blocks import soft_labels
    from labelgen.pipeline import add, append, build, plan, resolve, status, verify, work
    from labelgen.queries.query import query
    from labelgen.store.diff import diff
    from labelgen.store.kind_store import open_store as open  # noqa: A004 - `labelgen.open` is the name users see
    from labelgen.store.reader import Store
    from labelgen.store.remote.pull import pull
    from labelgen.store.remote.push import push
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
    "audit",
    "build",
    "diff",
    "errors",
    "export",
    "loader",
    "losses",
    "open",
    "patches",
    "plan",
    "pull",
    "push",
    "query",
    "registry",
    "relevance",
    "resolve",
    "resources",
    "soft_labels",
    "status",
    "store",
    "testing",
    "verify",
    "work",
]

_PLACES = {
    "BuildConfig": "labelgen.config:BuildConfig",
    "LabelgenError": "labelgen.errors:LabelgenError",
    "Store": "labelgen.store.reader:Store",
    "add": "labelgen.pipeline:add",
    "append": "labelgen.pipeline:append",
    "as_teacher": "labelgen.teachers.objects.given_teacher:as_teacher",
    "build": "labelgen.pipeline:build",
    "diff": "labelgen.store.diff:diff",
    "open": "labelgen.store.kind_store:open_store",
    "plan": "labelgen.pipeline:plan",
    "pull": "labelgen.store.remote.pull:pull",
    "push": "labelgen.store.remote.push:push",
    "query": "labelgen.queries.query:query",
    "resolve": "labelgen.pipeline:resolve",
    "soft_labels": "labelgen.loader.blocks:soft_labels",
    "status": "labelgen.pipeline:status",
    "verify": "labelgen.pipeline:verify",
    "work": "labelgen.pipeline:work",
    "__version__": "labelgen.version:VERSION",
}

#: Public packages and modules.
_MODULES = (
    *("audit", "errors", "export", "loader", "losses", "patches"),
    *("registry", "relevance", "resources", "store", "testing"),
)

__getattr__, __dir__ = lazy_names(__name__, _PLACES, _MODULES)
