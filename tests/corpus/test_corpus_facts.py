"""Known counts, registered adapters, and recipes that fit them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from labelgen import registry, resources
from labelgen.config import from_dict, read_recipe
from labelgen.corpus.arrange import Corpus, arrange
from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.facts import check, known
from labelgen.errors import DatasetError
from labelgen.registry import check_arguments


def corpus(**counts: tuple[int, int]) -> Corpus:
    """Splits with (images, captions); all captions belong to the first image."""
    images, captions = [], []
    for split, (n_images, n_captions) in counts.items():
        images += [ImageRecord(f"{split}{number}", split, None, number) for number in range(n_images)]
        captions += [CaptionRecord(f"{split}#{number}", f"{split}0", "x", number) for number in range(n_captions)]
    return arrange(Records(images, captions, None))


def test_totals_are_the_published_ones() -> None:
    published = [facts for name in registry.names("dataset") for facts in known(name)]
    totals = {facts.name: tuple(map(sum, zip(*facts.splits.values(), strict=True))) for facts in published}
    assert totals["COCO, Karpathy's split"] == (123_287, 616_767)
    assert totals["COCO 2014"] == (123_287, 616_767)
    assert totals["COCO 2017"] == (123_287, 616_767)
    assert totals["Flickr30k, Karpathy's split"] == (31_014, 155_070)
    assert totals["Flickr30k, token file without lists"] == (31_783, 158_915)
    assert totals["Flickr30k, token file with the lists of Flickr30k Entities"] == (31_783, 158_915)
    assert totals["Flickr8k"] == (8_092, 40_460)
    assert totals["Wikipedia (Rasiwasia et al. 2010)"] == (2_866, 2_866)


def test_differences_are_notes() -> None:
    assert check("demo", corpus(train=(26, 130), val=(50, 250))) == []
    assert check("demo", corpus(train=(26, 130))) == []  # --splits train
    assert check("demo", corpus(train=(10, 50), val=(10, 50)), limit=10) == []
    assert check("demo", corpus(train=(26, 130), val=(30, 9)), limit=30) == []
    assert check("demo", corpus(train=(26, 129))) == ["train: 129 captions, the demo set has 130"]
    assert check("demo", corpus(train=(25, 130))) == ["train: 25 images, the demo set has 26"]
    assert check("demo", corpus(test=(1, 1))) == ["test: 1 images, the demo set has no such split"]
    assert check("table", corpus(train=(3, 3))) == []


def test_the_nearest_published_form_counts() -> None:
    assert check("flickr30k", corpus(test=(1000, 5000), val=(1014, 5070))) == []
    notes = check("flickr30k", corpus(test=(1000, 5000), val=(1014, 5069)))
    assert notes == ["val: 5069 captions, Flickr30k, Karpathy's split has 5070"]


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_registered_adapters_say_what_they_expect(name: str) -> None:
    info = registry.load("dataset", name).info  # type: ignore[attr-defined]  # adapters are classes with `info`
    assert isinstance(info, DatasetInfo)
    assert all([info.summary, info.expects, info.ids, info.splits])


@pytest.mark.parametrize("name", sorted({*registry.names("dataset")} - {"demo"}))
def test_registered_adapters_refuse_what_is_not_theirs(name: str, tmp_path: Path) -> None:
    adapter = registry.load("dataset", name)
    for root, message in {None: "needs a root", tmp_path / "no": "does not exist", tmp_path: "is empty"}.items():
        with pytest.raises(DatasetError, match=message) as caught:
            adapter(root).read()
        assert caught.value.exit_code == 3
        assert caught.value.expected


@pytest.mark.parametrize("name", ["coco", "cusa", "demo", "flickr30k", "flickr8k", "wikipedia"])
def test_recipes_fit_their_adapters(name: str) -> None:
    config = from_dict(read_recipe(name))
    assert config.dataset.name == name
    check_arguments("dataset", config.dataset.spec, registry.load("dataset", name), ["root"])
    assert config.search.k == 64
    assert config.search.relations == (), "every relation that the teachers serve, so that a teacher can be left out"
    first = resources.recipe_path(name).read_text(encoding="utf-8").splitlines()
    assert first[0].startswith("# ")
    assert any(line.startswith("# Needs: ") for line in first)


def test_adapters_import_no_heavy_library() -> None:
    names = ("coco", "table", "tar_shards")
    code = f"import sys, {', '.join(f'labelgen.corpus.adapters.{name}' for name in names)}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"polars", "PIL", "torch", "pyarrow", "zarr"} & set(loaded)
