"""The adapters on real data."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from labelgen.corpus.adapters.cusa import Cusa
from labelgen.corpus.adapters.flickr import Flickr8k
from labelgen.corpus.adapters.table import Table
from labelgen.corpus.adapters.wikipedia import Wikipedia
from labelgen.corpus.arrange import arrange
from labelgen.corpus.facts import check
from labelgen.corpus.photos.photos import PhotoError, decode_photo, probe_photo, read_photo

pytestmark = pytest.mark.shared


def test_cusa(shared_data: Path) -> None:
    corpus = arrange(Cusa(shared_data / "coco_cusa_1k").read())
    assert corpus.splits == {"train": (0, 600), "val": (600, 801), "test": (801, 1002)}
    assert len(corpus.captions) == 5000
    assert Counter(corpus.images["n_captions"].to_list()) == {5: 995, 2: 3, 6: 2, 4: 1, 3: 1}
    assert corpus.photos == shared_data / "coco_cusa_1k" / "images"
    # The same captions as the parquet file of the folder, image by image.
    table = pl.read_parquet(shared_data / "coco_cusa_1k" / "captions.parquet")
    expected = Counter(table.select("file_name", "caption").rows())  # stripped there, verbatim with us
    ids = corpus.images["image_id"].to_list()
    assert (
        Counter((ids[row], text.strip()) for row, text in corpus.captions.select("image_row", "text").rows())
        == expected
    )


def test_photographs_of_cusa(shared_data: Path) -> None:
    corpus = arrange(Cusa(shared_data / "coco_cusa_1k").read(), limit=10)
    assert corpus.photos is not None
    for file in corpus.images["file"].to_list():
        assert decode_photo(read_photo(corpus.photos, file)).size == probe_photo(corpus.photos, file)


def test_flickr8k(shared_data: Path) -> None:
    corpus = arrange(Flickr8k(shared_data / "flickr8k").read())
    assert check("flickr8k", corpus) == []
    assert corpus.splits == {"train": (0, 6000), "val": (6000, 7000), "test": (7000, 8000), "unassigned": (8000, 8092)}
    assert len(corpus.quarantine) == 0
    # Ids and splits agree with the parquet file of the folder, the name without a photograph included.
    table = pl.read_parquet(shared_data / "flickr8k" / "captions.parquet")
    ids = corpus.images["image_id"].to_list()
    rows = corpus.captions.select("caption_id", "split", "text", "image_row").rows()
    ours = {(caption_id, split, text, ids[row]) for caption_id, split, text, row in rows}
    assert ours == set(table.select("caption_id", "split", "caption", "image_id").rows())
    assert corpus.photos is not None
    odd = corpus.images.filter(pl.col("image_id") == "2258277193_586949ec62")
    assert odd["file"].to_list() == ["2258277193_586949ec62.jpg.1"]
    with pytest.raises(PhotoError) as caught:
        read_photo(corpus.photos, odd["file"][0])
    assert caught.value.reason == "missing"
    missing = [file for file in corpus.images["file"].to_list() if not (corpus.photos / file).exists()]
    assert missing == odd["file"].to_list()


def test_flickr30k_as_a_table(shared_data: Path) -> None:
    records = Table(shared_data / "flickr30k_captions").read()
    start = time.perf_counter()
    corpus = arrange(records)
    assert time.perf_counter() - start < 10  # about 0.6 s on an idle core
    assert check("flickr30k", corpus) == []
    assert len(corpus.texts()) == 154_573
    assert corpus.photos is None
    assert corpus.images["image_id"][0] == "36979"
    assert corpus.captions["caption_id"].to_list()[:2] == ["36979.jpg#0", "36979.jpg#1"]


def test_remote_sensing_as_a_table(shared_data: Path) -> None:
    corpus = arrange(Table(shared_data / "remote_sensing_captions", category="dataset").read())
    assert len(corpus.captions) == 78_320
    assert len(corpus.texts()) == 36_984  # 36,985 different ones, the empty one among them
    assert corpus.quarantine["reason"].to_list() == ["blank"] * 20
    assert corpus.captions["text_row"].null_count() == 20
    assert set(corpus.images["category"].to_list()) == {"rsicd", "rsitmd"}


def test_wikipedia_lists(shared_data: Path) -> None:
    folder = shared_data / "wikipedia2010_features"
    corpus = arrange(Wikipedia(folder / "originals", features_only=True).read())
    assert check("wikipedia", corpus) == []
    assert corpus.captions["text"].to_list() == corpus.captions["caption_id"].to_list()
    # Ids as the features know them, the one with a stray character included.
    features = pl.read_parquet(folder / "features.parquet")
    assert corpus.images["image_id"].to_list() == features["image_id"].to_list()
    assert corpus.captions["caption_id"].to_list() == features["text_id"].to_list()
    assert corpus.images["category"].to_list() == [str(number) for number in features["category"].to_list()]
