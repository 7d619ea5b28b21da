"""Method 4 on its own data: English Wikipedia with ten categories, precomputed features of texts and images alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import labelgen
from labelgen import losses, pipeline
from labelgen.loader import ListedPairs, pair_labels

pytestmark = pytest.mark.shared


def write_features(source: Path, to: Path) -> None:
    """LDA topics of the texts and SIFT histograms of the images, by id; a histogram of zeros is none."""
    frame = pl.read_parquet(source)
    for name, ids, column in (("lda", "text_id", "text_feature_10"), ("sift", "image_id", "image_feature_128")):
        rows = np.array(frame[column].to_list(), np.float32)
        there = rows.any(axis=1)
        np.savez(to / f"{name}.npz", ids=frame[ids].to_numpy()[there].astype(str), features=rows[there])


def test_categories_teach_a_siamese_network(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "wikipedia2010_features"
    write_features(folder / "features.parquet", tmp_path)
    recipe = [
        f"dataset.root={json.dumps(str(folder / 'originals'))}",
        "dataset.options.features_only=true",
        f"teachers.lda=precomputed(path={str(tmp_path / 'lda.npz')!r}, modality='text')",
        f"teachers.image=precomputed(path={str(tmp_path / 'sift.npz')!r})",
        "teachers.siamese=siamese(of='lda', positives='category', hidden=128, dim=64, batch=256, steps=200)",
        "search.relations=['t2t']",
        "search.k=10",
    ]
    config = pipeline.resolve(dataset="wikipedia", overrides=recipe)
    teachers = {alias: spec for alias, spec in config.teachers.items() if alias != "text"}
    report = pipeline.build(replace(config, teachers=teachers), tmp_path / "store")
    told = report.trained["siamese"]["auc"]
    assert told["held_out"]["images"] == 217
    for part, least in (("held_out", 0.03), ("test", 0.015)):
        assert 0.8 < told[part]["frozen"] < told[part]["trained"] - least, part

    store = labelgen.open(tmp_path / "store")
    categories = np.array(store.images["category"].to_list())
    test = np.arange(store.splits["test"].start, store.splits["test"].stop)
    found = {alias: store.neighbors("t2t", rows=test, alias=alias).rows for alias in ("lda", "siamese")}
    precision = {alias: (categories[ids] == categories[test][:, None]).mean() for alias, ids in found.items()}
    assert precision["siamese"] > precision["lda"], "nearest texts are of the same category more often"

    draw = np.random.default_rng(0)
    captions, images = draw.integers(test[0], test[-1], (2, 500))
    pairs = np.unique(np.stack([captions, images], axis=1), axis=0)
    same = categories[pairs[:, 0]] == categories[pairs[:, 1]]  # one text an image: rows are those of the images
    listed = ListedPairs.of(store, store.caption_ids(pairs[:, 0]), store.image_ids(pairs[:, 1]), same)
    labels = {alias: pair_labels(store, listed, scheme=f"fine_grained(text={alias!r})") for alias in found}
    gap = {alias: made.similarity[same].mean() - made.similarity[~same].mean() for alias, made in labels.items()}
    assert gap["siamese"] > gap["lda"]
    scores = draw.random(len(pairs)).astype(np.float32)
    assert losses.pairwise_mean_variance(scores, same, weights=labels["siamese"].weights) > 0
