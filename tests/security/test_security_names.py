"""Names that become paths are words: at ingest, at open, and before an export writes; no target leaves `--out`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import labelgen
from labelgen import config as configs
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import CaptionRecord, ImageRecord, Records
from labelgen.errors import ConfigError, DatasetError, LabelgenError, SpecError, StoreError
from labelgen.export.targets import TARGETS, export
from labelgen.types import is_path_word

BAD = ["../up", "/abs", "a/b", "..", ".hidden", "a\\b", "a b", "x\n", "\x1b[31m", "a:b", "x" * 200, "\u202eabc"]
GOOD = ["train", "restval", "unassigned", "val2017", "split-1", "a.b", "_x", "Überprüfung"]


@pytest.mark.parametrize("name", BAD)
def test_words_that_are_none(name: str) -> None:
    assert not is_path_word(name)


@pytest.mark.parametrize("name", GOOD)
def test_words(name: str) -> None:
    assert is_path_word(name)


@pytest.mark.parametrize("name", BAD)
def test_split_names_at_ingest(name: str) -> None:
    images = [ImageRecord("1", name, None, 0)]
    with pytest.raises(DatasetError, match="split names"):
        arrange(Records(images, [CaptionRecord("1#0", "1", "text", 0)], None))


@pytest.mark.parametrize("alias", ["../x", "a/b", ".a", "a b", "ü", "", "x" * 65])
def test_aliases(alias: str) -> None:
    with pytest.raises((SpecError, ConfigError)):
        configs.from_dict({"dataset": {"name": "demo"}, "teachers": {alias: "minilm()"}})


def _renamed(name: str) -> Any:
    def change(document: dict[str, Any]) -> None:
        splits = document["corpus"]["splits"]
        document["corpus"]["splits"] = {name: splits["train"], "val": splits["val"]}

    return change


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "fine-grained"])
@pytest.mark.parametrize("name", ["../../escaped", "{tmp}/escaped", "a/../../b", "x y", ".hidden", "a/b"])
def test_no_export_leaves_its_folder(forge: Any, tmp_path: Path, target: str, name: str) -> None:
    store = forge(_renamed(name.format(tmp=tmp_path)))
    before = {path for path in tmp_path.rglob("*") if "exported" not in path.parts}
    try:
        export(labelgen.open(store), target, tmp_path / "deep" / "exported", _options())
    except LabelgenError:
        pass
    else:
        assert target in ("csr", "npz", "parquet"), "targets whose files are not called after splits"
    after = {path for path in tmp_path.rglob("*") if "exported" not in path.parts}
    assert after - before <= {tmp_path / "deep"}


def _options() -> Any:
    from labelgen.export.base import Options

    return Options(text="text", image="image")


def test_a_store_with_an_old_split_name_opens_and_is_exported_without_it(forge: Any, tmp_path: Path) -> None:
    store = labelgen.open(forge(_renamed("my split")))
    assert list(store.splits) == ["my split", "val"]
    with pytest.raises(ConfigError, match="my split"):
        export(store, "hf", tmp_path / "all")
    from labelgen.export.base import Options

    export(store, "hf", tmp_path / "val", Options(splits=("val",)))


def test_two_splits_of_one_name_are_refused(forge: Any, tmp_path: Path) -> None:
    """`val` is called `validation` on the hub: the second one was written over the first."""
    with pytest.raises(ConfigError, match="two files"):
        export(labelgen.open(forge(_renamed("validation"))), "hf", tmp_path / "out")


def test_links_in_an_export_folder(sound_store: Path, tmp_path: Path, precious: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "export.json").write_text("{}")
    (out / "neighbors").symlink_to(precious.parent)
    with pytest.raises(ConfigError, match="link"):
        export(labelgen.open(sound_store), "parquet", out)
    assert [path.name for path in precious.parent.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("path", ["../x/rows", "/etc/rows", "embeddings/../../x"])
def test_array_paths_that_leave(forge: Any, path: str) -> None:
    with pytest.raises(StoreError):
        labelgen.open(forge(lambda document: document["embeddings"][0].update(path=path)))
