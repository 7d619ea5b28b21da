"""Strips of the same queries against different candidates are parts of one list, and none overwrites another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from labelgen.similarity.base import ListRequest, SearchPlan
from labelgen.similarity.sort_keys import TopK
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.work import search
from labelgen.store.disk.mapped import MappedArray
from labelgen.store.manifest import load_manifest
from labelgen.testing.oracles import brute_force
from labelgen.testing.stores import make_store
from labelgen.types import Relation


@pytest.mark.parametrize("relation", [Relation.T2T, Relation.I2T, Relation.T2I])
def test_lists_made_of_several_strips_are_those_of_a_brute_force(tmp_path: Path, relation: Relation) -> None:
    store = make_store(tmp_path / "store", n_images=24, k=5)
    manifest = load_manifest(store)
    item = ListSpec(relation, "text", 5, "max", "split")
    arguments = {
        "corpus": "corpus",
        "alias": "text",
        "product": "text",
        "dim": 16,
        "lists": [item.to_json()],
        "folder": "parts",
    }
    splits = [(rows.start, rows.stop) for rows in manifest.corpus.splits.values()]
    parts = []
    for start, stop in splits:
        middle = (start + stop) // 2
        for first, last in ((start, middle), (middle, stop)):
            for span in ((start, middle), (middle, stop)):
                result = search.search_strip(store, **arguments, first=first, last=last, candidates=[list(span)])
                parts += json.loads(json.dumps(result.facts))["parts"]
    embedding = next(entry for entry in manifest.embeddings if entry.alias == "text")
    plan = SearchPlan(
        product="text",
        text=MappedArray(store, embedding.array),
        image=None,
        offsets=search.tables.offsets(store / "corpus"),
        splits=tuple(splits),
        requests=(ListRequest(relation, 5),),
        memory=1 << 30,
    )
    expected = brute_force(plan, plan.requests[0])
    found = TopK.from_keys(search.merged_keys(store, parts, 0, len(expected.ids), 6), 5)
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert found.next.tobytes() == expected.next.tobytes()
