"""What a build consists of: blocks, shards, lists, and the tree of fingerprints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labelgen.config import SearchConfig
from labelgen.errors import ConfigError
from labelgen.stages.model.facts import CorpusFacts, CorpusPart, TeacherFacts
from labelgen.stages.model.lists import ListSpec, lists_for, product_of
from labelgen.stages.plan.build_plan import EmbeddingPlan, embedding_plans, list_fingerprint, product_plans
from labelgen.stages.running.task import Task
from labelgen.types import Relation

TEXT, IMAGE, BOTH = frozenset({"text"}), frozenset({"image"}), frozenset({"text", "image"})
CORPUS = CorpusFacts(
    "corpus", n_images=100, n_captions=500, n_texts=430, fingerprint="c", photos_fingerprint="p",
    parts=(CorpusPart(photos="/photos"),),
)  # fmt: skip
MOVED = replace(CORPUS, parts=(CorpusPart(photos="/moved"),))
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


def test_every_ingredient_of_rows_is_in_their_fingerprint() -> None:
    """One thing changed at a time; a resume would otherwise take rows of another teacher for these."""
    both = TeacherFacts("clip", "open_clip()", BOTH, 512, {"weights": "w"}, "content", 64, 32)
    source = EmbeddingPlan(WORDS, "text", CORPUS)
    other_source = replace(source, teacher=replace(WORDS, identity={"weights": "x"}))
    plan = EmbeddingPlan(both, "image", CORPUS, (source,))
    plans = [
        plan,
        replace(plan, corpus=replace(CORPUS, fingerprint="d")),
        replace(plan, corpus=replace(CORPUS, photos_fingerprint="q")),
        replace(plan, teacher=replace(both, spec="open_clip(batch=2)")),
        replace(plan, teacher=replace(both, identity={"weights": "x"})),
        replace(plan, teacher=replace(both, dim=256)),
        replace(plan, modality="text"),
        replace(plan, sources=(other_source,)),
        replace(plan, sources=()),
        replace(plan, sealed="before"),
        replace(plan, sealed="other"),
    ]
    assert len({one.fingerprint for one in plans}) == len(plans)
    appended = replace(CORPUS, parts=(CorpusPart(), CorpusPart(image=60, caption=300, text=250)), reused=1)
    behind = [EmbeddingPlan(both, "image", appended, sealed=sealed).fingerprint for sealed in ("", "before", "other")]
    assert len(set(behind)) == 3, "rows behind sealed ones depend on those"
    keyed = replace(both, kind="keyed")
    sides = [EmbeddingPlan(keyed, side, CORPUS).fingerprint for side in ("image", "text")]  # type: ignore[arg-type]
    assert sides[0] != sides[1], "no photographs tell the two sides of a keyed teacher apart"


def test_every_ingredient_of_a_list_is_in_its_fingerprint() -> None:
    """Inputs of a product: corpus, rows of every side, product. Of a list: these, and everything that it is."""
    both = TeacherFacts("clip", "open_clip()", BOTH, 512, {}, "content", 64, 32)
    embedded = {"clip.image": "i", "clip.text": "t"}

    def products(corpus: CorpusFacts, embedded: dict[str, str]) -> dict[str, str]:
        lists = lists_for(SearchConfig(), {"clip": BOTH}, 1)
        return {plan.product: plan.inputs for plan in product_plans(corpus, [both], lists, embedded)}

    found = products(CORPUS, embedded)
    assert set(found) == {"text", "image", "cross"}
    others = [
        products(replace(CORPUS, fingerprint="d"), embedded),
        products(CORPUS, {**embedded, "clip.image": "j"}),
        products(CORPUS, {**embedded, "clip.text": "u"}),
    ]
    every = [inputs for made in (found, *others) for inputs in made.values()]
    assert len(set(every)) == len(every) == 12

    plan = product_plans(CORPUS, [both], lists_for(SearchConfig(), {"clip": BOTH}, 1), embedded)[0]
    item = ListSpec(Relation.T2T, "clip", 8, "max", "split")
    variants = [
        item,
        replace(item, relation=Relation.I2I),
        replace(item, alias="other"),
        replace(item, k=9),
        replace(item, aggregation="mean"),
        replace(item, scope="cross"),
        replace(item, approximate="faiss()"),
    ]
    prints = [list_fingerprint(plan, one) for one in variants]
    prints.append(list_fingerprint(replace(plan, inputs="other"), item))
    assert len(set(prints)) == len(prints)


def test_every_ingredient_of_a_task_but_its_places_is_in_its_fingerprint() -> None:
    task = Task("embed/a", "inputs", "module:work", {"n": 1}, 5, {"corpus": "here"})
    others = [
        replace(task, key="embed/b"),
        replace(task, inputs="others"),
        replace(task, work="module:other"),
        replace(task, arguments={"n": 2}),
    ]
    assert len({one.fingerprint for one in (task, *others)}) == 5
    assert replace(task, places={"corpus": "there"}).fingerprint == task.fingerprint


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
