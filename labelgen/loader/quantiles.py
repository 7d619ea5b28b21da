"""The quantile tables of a store: what percentile thresholds are read from."""

from __future__ import annotations

import json

from labelgen.errors import ConfigError, CorruptStoreError
from labelgen.relevance.base import BlockRequest, Quantiles
from labelgen.store import choose, layout
from labelgen.store.reader import Store


def quantile_table(store: Store, need: BlockRequest) -> Quantiles:
    """Level in [0, 1] -> similarity of random pairs of different images, for the relation and teacher of a need.

    A random pair never holds a caption of the image itself, so `max_other` has the table of `max`.

    Raises:
        ConfigError: the store has no such table.
        CorruptStoreError: the table is not what a build writes.
    """
    alias, _ = choose.teacher_for(store.manifest, need.relation, need.alias)
    mark = {"max": "", "max_other": "", "mean": ".mean"}.get(need.aggregation, f".{need.aggregation}")
    folder = layout.numbered(layout.STATS, store.manifest.generation)
    path = f"{folder}/{need.relation.value}.{alias}{mark}.json"
    if path not in store.manifest.files:
        listed = [name for name in store.manifest.files if name.startswith(f"{folder}/")]
        raise ConfigError(
            f"this store has no quantile table of {need} by teacher {alias!r}",
            found=", ".join(listed) or "no tables",
            todo="use a threshold that is a similarity, or build the relation into the store",
        )
    try:
        levels = json.loads((store.path / path).read_bytes())["quantiles"]
        return {float(level): float(value) for level, value in levels.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{path} of the store at {store.path} cannot be read",
            found=str(error),
            todo="run `labelgen verify` on the store",
        ) from error
