"""Labels of an explicit list of pairs: equal to those of a batch at the same places; every way a list can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner

import labelgen
from labelgen import losses
from labelgen.cli.main import cli
from labelgen.errors import ArrayError, ConfigError, DatasetError, LabelgenError, MissingItemError, UnknownIdError
from labelgen.loader import ListedPairs, pair_labels, read_pairs, soft_labels
from labelgen.loader.fine_grained import PairLabels
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

#: Of the store of this room: image 2 has no captions, image 5 no row (its captions do), caption 3 no row.
CAPTIONS = [0, 1, 2, 5, 7, 8, 9, 15, 16, 20, 23]
IMAGES = [0, 1, 3, 4, 5, 6, 7]


def listed(store: Store, y: Any = None) -> ListedPairs:
    """Every caption of `CAPTIONS` with every image of `IMAGES`."""
    captions, images = np.repeat(CAPTIONS, len(IMAGES)), np.tile(IMAGES, len(CAPTIONS))
    own = store.image_of(captions) == images
    return ListedPairs(captions, images, own if y is None else np.asarray(y, bool))


@pytest.mark.parametrize("aggregation", ["max", "mean", "first", "max_other"])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_labels_are_those_of_a_batch(store: Store, aggregation: str, gamma: float) -> None:
    scheme = f"fine_grained(aggregation={aggregation!r}, gamma={gamma})"
    captions, images = store.caption_ids(CAPTIONS), store.image_ids(IMAGES)
    soft = soft_labels(store, images, captions, scheme=scheme, missing="mask", exact=True)
    labels = pair_labels(store, listed(store), scheme=scheme)
    for name, block in {"similarity": soft.i2t, "weights": soft.weights, "where": soft.where}.items():
        np.testing.assert_array_equal(getattr(labels, name), block.T.ravel(), err_msg=name)
    targets = scheme.replace(")", ", mode='target')")
    target = soft_labels(store, images, captions, scheme=targets, missing="mask", exact=True)
    np.testing.assert_array_equal(labels.targets, target.relevance.T.ravel())
    assert labels.where.all() or aggregation == "max_other"


def test_small_pieces_change_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pair_labels(store, listed(store))
    monkeypatch.setattr("labelgen.loader.fine_grained._PIECE", 40)
    pieces = pair_labels(store, listed(store))
    np.testing.assert_array_equal(whole.similarity, pieces.similarity)


def test_y_of_the_list_counts_not_whose_caption_it_is(store: Store) -> None:
    """A judged pair of another image may be positive, an own one negative."""
    pairs = listed(store)
    labels = pair_labels(store, ListedPairs(pairs.captions, pairs.images, ~pairs.positives))
    share = np.clip(labels.similarity, 0, 1)
    np.testing.assert_allclose(labels.weights, np.where(pairs.positives, 1 + share, 2 - share), rtol=1e-6)
    np.testing.assert_allclose(labels.targets, np.where(pairs.positives, share / 2, (1 + share) / 2), rtol=1e-6)


def test_a_cross_modal_teacher_compares_rows(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "store", dims={"clip": 8}))
    labels = pair_labels(store, ListedPairs.of(store, ["cap-0", "cap-7"], ["img-3", "img-1"], [0, 1]))
    block = store.block("i2t", ["img-3", "img-1"], ["cap-0", "cap-7"])
    assert labels.similarity.tolist() == [block[0, 0], block[1, 1]]
    with pytest.raises(ConfigError, match="nothing to aggregate"):
        pair_labels(store, listed(store), scheme="fine_grained(aggregation='mean')")


def test_it_goes_into_the_loss(store: Store) -> None:
    labels = pair_labels(store, listed(store)).take(slice(0, 40)).map(torch.as_tensor)
    assert isinstance(labels, PairLabels)
    assert len(labels) == 40
    scores = torch.rand(40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = losses.pairwise_mean_variance(scores, labels.positives, weights=labels.weights, where=labels.where)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.abs().sum() > 0


def test_items_without_an_embedding(store: Store) -> None:
    pairs = ListedPairs.of(store, ["cap-3", "cap-0", "cap-1"], ["img-0", "img-2", "img-0"], [1, 0, 1])
    labels = pair_labels(store, pairs, missing="mask")
    assert labels.where.tolist() == [False, False, True]
    assert labels.similarity[:2].tolist() == [0, 0]
    with pytest.raises(MissingItemError, match="cap-3"):
        pair_labels(store, pairs)
    with pytest.raises(MissingItemError, match="img-2"):
        pair_labels(store, ListedPairs.of(store, ["cap-0"], ["img-2"], [0]))
    with pytest.raises(ConfigError, match="raise or mask"):
        pair_labels(store, pairs, missing="skip")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fine_grained"):
        pair_labels(store, pairs, scheme="bcls()")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64, pl.Boolean])
def test_tables(store: Store, suffix: str, kind: Any, tmp_path: Path) -> None:
    frame = pl.DataFrame({"note": ["a", "b"], "y": pl.Series([1, 0]).cast(kind), "image_id": ["img-0", "img-4"]})
    frame = frame.with_columns(caption_id=pl.Series(["cap-0", "cap-0"]))
    path = tmp_path / f"pairs{suffix}"
    {".parquet": frame.write_parquet, ".csv": frame.write_csv, ".jsonl": frame.write_ndjson}[suffix](path)
    pairs = read_pairs(store, path)
    assert (pairs.captions.tolist(), pairs.images.tolist(), pairs.positives.tolist()) == ([0, 0], [0, 4], [True, False])


GOOD: dict[str, list[Any]] = {"caption_id": ["cap-0", "cap-1"], "image_id": ["img-0", "img-4"], "y": [1, 0]}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"y": [1, 2]}, DatasetError, "2 in row 1"),
        ({"y": [0.5, 1]}, DatasetError, "0.5 in row 0"),
        ({"y": ["yes", "1"]}, DatasetError, "'yes' in row 0"),
        ({"y": [1, None]}, DatasetError, "no y in some rows"),
        ({"caption_id": ["cap-0", None]}, DatasetError, "no caption_id in some rows"),
        ({"caption_id": ["cap-0", "cap-99"], "image_id": ["img-77", "img-0"]}, UnknownIdError, "'cap-99'"),
        ({"caption_id": ["cap-0", "cap-99"], "image_id": ["img-77", "img-0"]}, UnknownIdError, "1 image ids: 'img-77'"),
        ({"caption_id": ["cap-0"] * 2, "image_id": ["img-0"] * 2, "y": [1, 1]}, DatasetError, "listed twice"),
        ({"caption_id": ["cap-0"] * 2, "image_id": ["img-0"] * 2}, DatasetError, "contradict each other"),
        ({"caption_id": ["cap-0"] * 2, "image_id": ["img-0"] * 2}, DatasetError, "('cap-0', 'img-0')"),
        ({"caption_id": [], "image_id": [], "y": []}, DatasetError, "lists no pairs"),
    ],
)
def test_wrong_lists_are_refused(
    store: Store, change: dict[str, Any], error: type[LabelgenError], words: str, tmp_path: Path
) -> None:
    pl.DataFrame(GOOD | change).write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(error) as caught:
        read_pairs(store, tmp_path / "pairs.parquet")
    assert words in str(caught.value)


def test_wrong_files_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        read_pairs(store, tmp_path / "pairs.parquet")
    with pytest.raises(DatasetError, match=r"ends in '\.txt'"):
        read_pairs(store, tmp_path / "pairs.txt")
    (tmp_path / "pairs.parquet").write_bytes(b"no parquet")
    with pytest.raises(DatasetError, match="not parquet"):
        read_pairs(store, tmp_path / "pairs.parquet")
    pl.DataFrame({"captionid": ["cap-0"], "image_id": ["img-0"], "label": [1]}).write_parquet(
        tmp_path / "other.parquet"
    )
    with pytest.raises(DatasetError) as caught:
        read_pairs(store, tmp_path / "other.parquet")
    assert "lacks caption_id, y" in str(caught.value)
    assert "rename 'captionid' to 'caption_id'" in str(caught.value)
    with pytest.raises(ArrayError, match="columns of a list of pairs"):
        ListedPairs.of(store, ["cap-0"], ["img-0", "img-1"], [1])


def test_export(store: Store, tmp_path: Path) -> None:
    table = GOOD | {"caption_id": ["cap-3", "cap-1"]}
    pl.DataFrame(table).write_parquet(tmp_path / "pairs.parquet")
    arguments = ["export", str(store.path), "--for", "fine-grained", "--out", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(
        cli, [*arguments, "--pairs", str(tmp_path / "pairs.parquet"), "--scheme", "fine_grained(gamma=2)"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["notes"] == ["1 of 2 pairs cannot be compared: an item has no embedding"]
    frame = pl.read_parquet(tmp_path / "out" / "pairs.parquet")
    assert frame.columns == ["caption_id", "image_id", "y", "similarity", "weight", "target"]
    assert frame.select("caption_id", "image_id").rows() == [("cap-3", "img-0"), ("cap-1", "img-4")]
    assert frame["y"].to_list() == [True, False]
    similarity = store.block("i2t", ["img-4"], ["cap-1"]).item()
    share = min(max(similarity, 0), 1)
    assert frame.row(0)[3:] == (None, None, None)
    np.testing.assert_allclose(frame.row(1)[3:], (similarity, 1 + 2 * share, share / 2), rtol=1e-6)
    assert CliRunner().invoke(cli, arguments).exit_code == 2, "no list was named"
