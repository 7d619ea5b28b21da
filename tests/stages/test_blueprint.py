"""What a build consists of: blocks, shards, lists, and the tree of fingerprints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labelgen.config import SearchConfig
from labelgen.errors import ConfigError
from labelgen.stages.blueprint import EmbeddingPlan, embedding_plans, list_fingerprint, product_plans
from labelgen.stages.facts import CorpusFacts, Part, TeacherFacts
from labelgen.stages.search import lists_for, product_of
from labelgen.types import Relation

TEXT, IMAGE, BOTH = frozenset({"text"}), frozenset({"image"}), frozenset({"text", "image"})
CORPUS = CorpusFacts(
    "corpus", n_images=100, n_captions=500, n_texts=430, fingerprint="c", photos_fingerprint="p",
    parts=(Part(photos="/photos"),),
)  # fmt: skip
MOVED = replace(CORPUS, parts=(Part(photos="/moved"),))
WORDS = TeacherFacts("text", "minilm()", TEXT, 384, {"weights": "w"}, "content", 64, 0)
PIXELS = TeacherFacts("image", "timm()", IMAGE, 1280, {"weights": "v"}, "content", 0, 32)
KEYED = TeacherFacts("grid", "precomputed()", IMAGE, 37_632, {}, "keyed", 0, 0)


def test_blocks_cover_the_distinct_texts_or_the_images() -> None:
    texts = EmbeddingPlan(WORDS, "text", CORPUS).part_tasks()
    assert [(task.arguments["start"], task.arguments["stop"]) for task in texts] == [
        (0, 64), (64, 128), (128, 192), (192, 256), (256, 320), (320, 384), (384, 430)
    ]  # fmt: skip
    assert sum(task.rows for task in EmbeddingPlan(PIXELS, "image", CORPUS).part_tasks()) == 100
    assert len(EmbeddingPlan(KEYED, "image", CORPUS).part_tasks()) == 1, "32 MB hold 222 rows of 37,632 numbers"
    assert EmbeddingPlan(KEYED, "image", CORPUS).block == 222


def test_fingerprints_change_with_what_decides_the_rows_and_with_nothing_else() -> None:
    plan = EmbeddingPlan(PIXELS, "image", CORPUS)
    same = [replace(MOVED, folder="elsewhere")]
    other = [replace(CORPUS, fingerprint="d"), replace(CORPUS, photos_fingerprint="q")]
    assert all(replace(plan, corpus=corpus).fingerprint == plan.fingerprint for corpus in same)
    assert all(replace(plan, corpus=corpus).fingerprint != plan.fingerprint for corpus in other)
    assert replace(plan, teacher=replace(PIXELS, identity={"weights": "x"})).fingerprint != plan.fingerprint
    texts = EmbeddingPlan(WORDS, "text", CORPUS)
    assert replace(texts, corpus=other[1]).fingerprint == texts.fingerprint, "photographs do not decide texts"


def test_a_moved_data_set_has_the_same_tasks() -> None:
    here = EmbeddingPlan(PIXELS, "image", CORPUS).part_tasks()
    moved = EmbeddingPlan(PIXELS, "image", replace(MOVED, folder="corpus.2")).part_tasks()
    assert [task.fingerprint for task in here] == [task.fingerprint for task in moved]


def test_a_new_teacher_invalidates_nothing() -> None:
    def fingerprints(teachers: list[TeacherFacts]) -> dict[str, str]:
        plans = embedding_plans(CORPUS, teachers)
        embedded = {f"{plan.alias}.{plan.modality}": plan.fingerprint for plan in plans}
        lists = lists_for(SearchConfig(), {facts.alias: facts.modalities for facts in teachers}, 1)
        products = product_plans(CORPUS, teachers, lists, embedded)
        return embedded | {item.path: list_fingerprint(plan, item) for plan in products for item in plan.lists}

    one, two = fingerprints([WORDS]), fingerprints([WORDS, PIXELS])
    assert one.items() <= two.items()
    assert "neighbors/i2i.image.k64" in two


@pytest.mark.parametrize(
    ("relation", "sides", "product"),
    [
        (Relation.T2T, TEXT, "text"),
        (Relation.I2T, TEXT, "text"),
        (Relation.T2I, TEXT, "text"),
        (Relation.I2I, TEXT, None),
        (Relation.I2I, IMAGE, "image"),
        (Relation.T2T, IMAGE, None),
        (Relation.I2T, IMAGE, None),
        (Relation.T2T, BOTH, "text"),
        (Relation.I2I, BOTH, "image"),
        (Relation.I2T, BOTH, "cross"),
        (Relation.T2I, BOTH, "cross"),
    ],
)
def test_which_product_serves_a_relation(relation: Relation, sides: frozenset[str], product: str | None) -> None:
    assert product_of(relation, sides) == product  # type: ignore[arg-type]


def test_lists_follow_the_recipe() -> None:
    sides = {"text": TEXT, "clip": BOTH}
    every = lists_for(SearchConfig(k=8, cross_k=3), sides, 2)
    split = [item.path for item in every if item.scope == "split"]
    assert sorted(split) == sorted(
        f"neighbors/{name}.k8"
        for name in ("t2t.text", "i2t.text", "t2i.text", "t2t.clip", "i2i.clip", "i2t.clip", "t2i.clip")
    )
    assert sum(item.scope == "cross" for item in every) == 7
    assert not [item for item in lists_for(SearchConfig(cross_k=3), sides, 1) if item.scope == "cross"], (
        "one split has no other"
    )
    named = lists_for(SearchConfig(relations=("i2t.clip", "t2t.text"), aggregation="mean"), sides, 1)
    assert [item.path for item in named] == ["neighbors/t2t.text.k64", "neighbors/i2t.clip.k64"], (
        "mean is for caption sets"
    )
    with pytest.raises(ConfigError, match="no teacher can serve i2i"):
        lists_for(SearchConfig(relations=("i2i",)), {"text": TEXT}, 1)
