"""The approximate engine: what it lists is right, what it misses is measured, and threads change nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("faiss", reason="needs the extra labelgen[faiss]")

from labelgen.errors import ConfigError
from labelgen.similarity.ann import ivf
from labelgen.similarity.ann.faiss_engine import FaissEngine
from labelgen.similarity.ann.ivf import Index
from labelgen.similarity.ann.recall import Sampled, by_image, recalls
from labelgen.similarity.base import ArrayRows, SearchPlan
from labelgen.similarity.reference import ReferenceEngine
from labelgen.similarity.sort_keys import TopK
from labelgen.testing.approximate import ApproximateEngineSuite, recall_of
from labelgen.testing.engines import TEXT_RELATIONS, clustered_rows, plan_of, search_all, unit_rows, wants_of
from labelgen.testing.oracles import brute_force
from labelgen.types import Relation


class TestFaissEngine(ApproximateEngineSuite):
    def make(self, **arguments: Any) -> FaissEngine:
        return FaissEngine(**arguments)


class TestFaissEngineInManyParts(ApproximateEngineSuite):
    """Parts of one list or two: what is found must be put together from many."""

    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ivf, "_PART_BYTES", 4000)
        monkeypatch.setattr(ivf, "_FLAT", 4)

    def make(self, **arguments: Any) -> FaissEngine:
        return FaissEngine(**{"lists": 9, **arguments})


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _hard_plan(count: int = 1500) -> SearchPlan:
    """Rows without any order: the hardest there are for lists."""
    rows = unit_rows(np.random.default_rng(0).standard_normal((count, 64)))
    return plan_of("text", [3] * (count // 3), wants_of(TEXT_RELATIONS), text=rows)


@pytest.mark.parametrize("codes", ["pq4", "float16"])
def test_threads_change_nothing(codes: str) -> None:
    plan, found = _hard_plan(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(search_all(FaissEngine(codes=codes, recall=0.8), plan))
    for want in plan.wants:
        first = found[0][want]
        for other in found[1:]:
            assert other[want].ids.tobytes() == first.ids.tobytes()
            assert other[want].scores.tobytes() == first.scores.tobytes()


def test_all_lists_and_float16_rows_find_what_brute_force_finds() -> None:
    plan = _hard_plan(600)
    found = search_all(FaissEngine(codes="float16", lists=8, probes=8), plan)
    for want in plan.wants:
        expected = brute_force(plan, want)
        mean = float(np.mean(found[want].ids == expected.ids))
        assert mean > 0.999, want  # equal but for rows that float32 sums cannot tell apart


def test_a_low_recall_is_reported_low() -> None:
    plan = _hard_plan()
    engine = FaissEngine(lists=60, probes=1, sample=500)
    found = search_all(engine, plan)
    (_, tuning), *_ = engine._found.values()
    true = {want: float(np.nanmean(recall_of(found[want], brute_force(plan, want), want.k))) for want in plan.wants}
    assert max(true.values()) < 0.5
    assert tuning.recall == pytest.approx(min(true.values()), abs=0.08)
    for want in plan.wants:  # the whole corpus as the sample: the measurement is the truth
        sampled = Sampled(plan_of("text", [3] * 500, [want], text=plan.text.array), np.arange(500))  # type: ignore[union-attr]
        measured = by_image(
            recalls(_keys(found[want]), sampled.search(ReferenceEngine(), 0, 500, (0, 500))[0], want.k),
            sampled.queries(want, sampled.images)[1],
        )
        assert float(measured.mean()) == pytest.approx(true[want], abs=1e-6)


def test_more_recall_costs_more_probes() -> None:
    plan, probes = _hard_plan(), []
    for recall in (0.5, 0.8, 0.97):
        engine = FaissEngine(recall=recall, lists=40)
        search_all(engine, plan)
        (_, tuning), *_ = engine._found.values()
        assert tuning.recall >= recall
        probes.append(tuning.probes)
    assert probes == sorted(set(probes))


def test_an_index_in_files_gives_the_lists_of_one_in_memory() -> None:
    plan = _hard_plan(900)
    in_memory = FaissEngine(recall=0.8)
    expected = search_all(in_memory, plan)
    (key, (index, tuning)), *_ = in_memory._found.items()
    files = []
    for number in range(len(index.ranges)):
        file = io.BytesIO()
        in_memory.write(index.part(number), file)  # type: ignore[arg-type]
        files.append(file.getvalue())
    engine = FaissEngine(recall=0.8)
    engine.adopt(
        *key, Index(index.trained, index.ranges, lambda number: engine.read(io.BytesIO(files[number]))), tuning
    )
    found = search_all(engine, plan)
    for want in plan.wants:
        assert found[want].ids.tobytes() == expected[want].ids.tobytes()


def test_rows_of_one_list_and_of_no_list() -> None:
    trained = FaissEngine().train(ArrayRows(np.zeros((50, 16), np.float16)), 0, 50)
    assert trained.centres.shape == (1, 16)
    rows = clustered_rows(200, 16, seed=1)
    rows[7] = 0
    owner = FaissEngine(lists=5).assign(FaissEngine(lists=5).train(ArrayRows(rows), 0, 200), ArrayRows(rows), 0, 200)
    assert owner[7] == -1
    assert set(owner.tolist()) == {-1, 0, 1, 2, 3, 4}


def test_centres_in_two_levels_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ivf, "_FLAT", 10)
    unit = ivf.unit_rows(clustered_rows(2000, 16, seed=2))
    centres = ivf.centres_of(unit, 64, 0, lambda work, items: list(map(work, items)))
    assert 56 <= len(centres) <= 72
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-5)
    near = ivf.nearest(unit, centres, 1, lambda work, items: list(map(work, items)))[1]
    flat = ivf.centres_of(unit, 10, 0, lambda work, items: list(map(work, items)))
    coarse = ivf.nearest(unit, flat, 1, lambda work, items: list(map(work, items)))[1]
    assert near.mean() > coarse.mean()


@pytest.mark.parametrize(
    "arguments", [{"recall": 0}, {"recall": 1.2}, {"sample": 0}, {"lists": -1}, {"probes": -1}, {"codes": "pq8"}]
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        FaissEngine(**arguments)


def _keys(found: TopK) -> Any:
    from labelgen.similarity.sort_keys import encode

    return encode(found.scores, found.ids)


def test_relations_of_images_only() -> None:
    image = clustered_rows(400, 32, seed=9)
    plan = plan_of("image", [0] * 400, wants_of([Relation.I2I], (10,)), image=image)
    found = search_all(FaissEngine(recall=0.9), plan)[plan.wants[0]]
    assert float(np.nanmean(recall_of(found, brute_force(plan, plan.wants[0]), 10))) > 0.85
