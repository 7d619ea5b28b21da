"""Cleaned files of every adapter: reading them gives what a build with the patch would take."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen import registry
from labelgen.cli.main import cli
from labelgen.corpus.base import Records
from labelgen.errors import ConfigError, DatasetError
from labelgen.patches import Patch, export_captions, write
from labelgen.patches.cleaned.cleaned import export_sources
from labelgen.patches.removed import without
from labelgen.specs import Spec

#: Images with 3, 2, 1, 0, 4 and 2 captions; odd texts on purpose.
SIZES = (3, 2, 1, 0, 4, 2)
TEXTS = ['a "quoted", one', "two\u2028lines", "", "fünf", "x\ty", " blank before"]


def rows(*, empty: bool = True) -> list[tuple[str, str, int]]:
    """(file, caption, number within the image)."""
    found = [
        (f"im{image}.jpg", f"{TEXTS[(image + n) % 6]} {image} {n}" if n or image else TEXTS[2], n)
        for image, size in enumerate(SIZES)
        for n in range(size)
    ]
    return [(file, text if empty or text else "not empty", n) for file, text, n in found]


def token(root: Path) -> str:
    lines = [f"{file}#{n}\t{text}\n" for file, text, n in rows()]
    (root / "Flickr8k.token.txt").write_text("".join(lines), encoding="utf-8")
    for name, images in (("train", "012"), ("dev", "3"), ("test", "45")):
        (root / f"Flickr_8k.{name}Images.txt").write_text("".join(f"im{n}.jpg\n" for n in images))
    return "flickr8k"


def flickr30k(root: Path) -> str:
    document = karpathy_document()
    for entry in document["images"]:
        del entry["cocoid"]  # only COCO's has it
    (root / "dataset_flickr30k.json").write_text(json.dumps(document), encoding="utf-8")
    return "flickr30k"


def karpathy_document() -> dict[str, Any]:
    images: dict[str, Any] = {
        f"im{n}.jpg": {"filename": f"im{n}.jpg", "filepath": "val2014", "cocoid": n, "split": "train", "sentences": []}
        for n in range(len(SIZES))
    }
    for row, (file, text, _) in enumerate(rows()):
        images[file]["sentences"].append({"sentid": 100 + row, "raw": text, "tokens": []})
    for entry in images.values():
        entry["sentids"] = [item["sentid"] for item in entry["sentences"]]
    return {"dataset": "made", "images": list(images.values())}


def karpathy(root: Path) -> str:
    (root / "dataset_coco.json").write_text(json.dumps(karpathy_document()), encoding="utf-8")
    return "coco"


def coco(root: Path) -> str:
    images = [{"id": n, "file_name": f"im{n}.jpg"} for n in range(len(SIZES))]
    notes = [{"id": 100 + row, "image_id": int(file[2]), "caption": text} for row, (file, text, _) in enumerate(rows())]
    (root / "annotations").mkdir()
    document = {"images": images, "annotations": notes}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(document), encoding="utf-8")
    return "coco"


def cusa(root: Path) -> str:
    entries = [{"image_id": int(file[2]), "image_path": f"./pics/{file}", "caption": text} for file, text, _ in rows()]
    (root / "new_train.json").write_text(json.dumps(entries[:6]), encoding="utf-8")
    (root / "new_test.json").write_text(json.dumps(entries[6:]), encoding="utf-8")
    return "cusa"


def frame(*, ids: bool) -> pl.DataFrame:
    columns = {
        "picture": [file[:3] for file, _, _ in rows()],
        "words": [text for _, text, _ in rows()],
        "caption_id": [f"c{row}" for row in range(len(rows()))],
    }
    made = pl.DataFrame(columns)
    return made if ids else made.drop("caption_id")


def csv_table(root: Path) -> str:
    frame(ids=True).write_csv(root / "captions.csv", line_terminator="\r\n", include_bom=True)
    return "table(image_id='picture', caption='words')"


def tsv_table(root: Path) -> str:
    frame(ids=False).write_csv(root / "mine.tsv", separator="\t")
    return "table(file='mine.tsv', image_id='picture', caption='words')"


def jsonl_table(root: Path) -> str:
    lines = [json.dumps(row) for row in frame(ids=False).to_dicts()]
    lines.insert(2, json.dumps({"picture": "im3", "words": None}))  # an image alone
    (root / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return "table(image_id='picture', caption='words')"


def parquet_table(root: Path) -> str:
    frame(ids=True).write_parquet(root / "captions.parquet")
    return "table(image_id='picture', caption='words', caption_id='caption_id')"


def folder(root: Path) -> str:
    """Photographs with a text beside them, and further captions in captions.jsonl."""
    lines = []
    for number, size in enumerate(SIZES):
        (root / f"im{number}.jpg").write_bytes(b"a photograph")
        texts = [text for file, text, _ in rows() if file == f"im{number}.jpg"]
        if number % 2 == 0 and size:
            (root / f"im{number}.txt").write_text(texts.pop(0) + "\n", encoding="utf-8")
        lines.append({"file": f"im{number}.jpg", "captions": texts})
    lines.append({"file": "im0.jpg", "caption": "one more"})
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return "folder"


def shards(root: Path, *, ids: str) -> str:
    """Texts, lists of captions in JSON, and both of them."""
    for shard in (0, 1):
        with tarfile.open(root / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * 3, shard * 3 + 3):
                texts = [text for file, text, _ in rows() if file == f"im{number}.jpg"]
                members = {"jpg": b"a photograph"}
                if len(texts) == 1:
                    members |= {"txt": texts[0].encode(), "json": json.dumps({"caption": texts[0], "w": 1}).encode()}
                elif texts:
                    members |= {"json": json.dumps({"captions": texts, "w": 1}).encode()}
                for suffix, data in members.items():
                    info = tarfile.TarInfo(f"im{number}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return f"webdataset(ids='{ids}')"


def wikipedia(root: Path) -> str:
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        lines = [f"text{number}\timage{number}\t{number % 3 + 1}\n" for number in numbers]
        (root / f"{split}set_txt_img_cat.list").write_text("".join(lines))
    (root / "categories.list").write_text("art\nbiology\nwarfare\n")
    return "wikipedia(features_only=True)"


def tokens_of_languages(root: Path) -> str:
    """Lines that end with a carriage return alone, with the language in the id."""
    lines = [f"{file}#enc#{n}\t{text}\r" for file, text, n in rows()]
    (root / "results_20130124.token").write_bytes("".join(lines).encode())
    (root / "train.txt").write_bytes("".join(f"im{n}.jpg\r" for n in range(3)).encode())
    return "flickr30k"


def quotes_as_text(root: Path) -> str:
    """A TSV without quoting, with a blank line, a repeated header and line ends of Windows."""
    header = "picture\twords"
    lines = [f'{file[:3]}\t"{text.replace(chr(9), " ")} {n}' for file, text, n in rows()]
    lines[2:2] = ["", header]
    (root / "mine.tsv").write_bytes("\r\n".join([header, *lines, ""]).encode())
    return "table(file='mine.tsv', image_id='picture', caption='words')"


def semicolons(root: Path) -> str:
    frame(ids=True).write_csv(root / "mine.csv", separator=";")
    return "table(file='mine.csv', image_id='picture', caption='words', separator='semicolon')"


def listed() -> list[dict[str, Any]]:
    """An image a row, with all its captions and their ids."""
    found = []
    for image in range(len(SIZES)):
        texts = [(row, text) for row, (file, text, _) in enumerate(rows()) if file == f"im{image}.jpg"]
        ids, captions = [f"c{row}" for row, _ in texts], [text for _, text in texts]
        found.append({"image_id": f"im{image}", "caption": captions, "caption_id": ids})
    return found


def lists_in_jsonl(root: Path) -> str:
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed()), encoding="utf-8")
    return "table"


def lists_in_parquet(root: Path) -> str:
    pictures = [{"bytes": b"x", "path": f"{row['image_id']}.jpg"} for row in listed()]
    pl.DataFrame({"image": pictures, "caption": [row["caption"] for row in listed()]}).write_parquet(
        root / "captions.parquet"
    )
    return "table"


def folder_of_lines(root: Path) -> str:
    for number in range(len(SIZES)):
        (root / f"im{number}.jpg").write_bytes(b"a photograph")
        texts = [text or "not empty" for file, text, _ in rows() if file == f"im{number}.jpg"]
        if texts:
            (root / f"im{number}.TXT").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return "folder(lines='each')"


def folder_with_metadata(root: Path, *, suffix: str) -> str:
    (root / "train").mkdir()
    for number in range(len(SIZES)):
        (root / "train" / f"im{number}.jpg").write_bytes(b"a photograph")
    named = pl.DataFrame({"file_name": [file for file, _, _ in rows()], "text": [text for _, text, _ in rows()]})
    if suffix == "csv":
        named.write_csv(root / "train" / "metadata.csv", include_bom=True)
    else:
        named.write_ndjson(root / "train" / "metadata.jsonl")
    return "folder"


MADE: dict[str, Callable[[Path], str]] = {
    "token": token,
    "flickr30k": flickr30k,
    "karpathy": karpathy,
    "coco": coco,
    "cusa": cusa,
    "csv": csv_table,
    "tsv": tsv_table,
    "jsonl": jsonl_table,
    "parquet": parquet_table,
    "folder": folder,
    "webdataset": lambda root: shards(root, ids="key"),
    "webdataset, ids of shards": lambda root: shards(root, ids="shard/key"),
    "wikipedia": wikipedia,
    "tokens of languages": tokens_of_languages,
    "quotes as text": quotes_as_text,
    "semicolons": semicolons,
    "lists in jsonl": lists_in_jsonl,
    "lists in parquet": lists_in_parquet,
    "folder of lines": folder_of_lines,
    "folder with metadata.csv": lambda root: folder_with_metadata(root, suffix="csv"),
    "folder with metadata.jsonl": lambda root: folder_with_metadata(root, suffix="jsonl"),
}


def read(spec: str, root: Path) -> Records:
    records: Records = registry.create("dataset", Spec.parse(spec), root=root).read()
    return records


def decisions(records: Records, seed: int) -> Patch:
    """A patch of an image, a merged one, some captions and pairs; which ones depends on the seed."""
    draw = np.random.default_rng(seed)
    images = [records.images[place].image_id for place in draw.permutation(len(records.images))]
    spoken = [item for item in records.captions if item.image_id not in images[:1]]
    captions = [spoken[place] for place in draw.permutation(len(spoken))][:4]
    return Patch.of(
        "s",
        [
            {"decision": "drop_image", "image_id": images[0]},
            {"decision": "merge_duplicates", "image_id": images[1], "into": images[2]},
            {"decision": "drop_caption", "caption_id": captions[0].caption_id},
            {"decision": "mask_pair", "image_id": captions[1].image_id, "caption_id": captions[1].caption_id},
            {"decision": "mask_pair", "image_id": images[3], "caption_id": captions[2].caption_id},
            {"decision": "merge_duplicates", "caption_id": captions[3].caption_id, "into": captions[2].caption_id},
        ],
    )


def told(records: Records, *, alone: bool) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Captions by image, and images with their splits; ids of captions may be counted anew."""
    captions = [(item.image_id, item.text) for item in records.captions]
    used = {image for image, _ in captions}
    return captions, [(item.image_id, item.split) for item in records.images if alone or item.image_id in used]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MADE)
def test_reading_what_was_cleaned(name: str, seed: int, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    spec = MADE[name](root)
    before = read(spec, root)
    patch = decisions(before, seed)
    done = export_sources(patch, spec, root, out)
    for photo in root.rglob("*.jpg") if name.startswith("folder") else ():
        shutil.copy(photo, out / photo.relative_to(root))
    after, expected = read(spec, out), without(before, patch)
    # A dropped caption of wikipedia is the only one of its image; tables and CUSA name images by their captions.
    assert told(after, alone=False)[0] == told(expected, alone=False)[0]
    kept = told(after, alone=False)[1]
    assert kept == told(expected, alone=False)[1]
    if name in ("token", "flickr30k", "karpathy", "coco"):
        assert told(after, alone=True) == told(expected, alone=True)
        assert [item.caption_id for item in after.captions] == [item.caption_id for item in expected.captions]
    assert (done.kept, done.kept + done.removed) == (len(expected.captions), len(before.captions))


@pytest.mark.parametrize("name", [name for name in MADE if "webdataset" not in name])
def test_nothing_to_clean_changes_no_byte(name: str, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    spec = MADE[name](root)
    export_sources(Patch.of("s"), spec, root, out)
    for path in (path for path in out.rglob("*") if path.is_file()):
        data, source = path.read_bytes(), (root / path.relative_to(out)).read_bytes()
        if path.suffix == ".json":
            assert json.loads(data) == json.loads(source)
        elif path.suffix == ".parquet":
            assert pl.read_parquet(path).equals(pl.read_parquet(root / path.name))
        else:
            assert data == source


def test_tables_of_other_columns(tmp_path: Path) -> None:
    csv_table(tmp_path)
    with pytest.raises(DatasetError, match="no image_id and no caption"):
        export_captions(Patch.of("s"), tmp_path / "captions.csv", tmp_path / "out.csv")
    with pytest.raises(ConfigError, match="no colour"):
        export_captions(Patch.of("s"), tmp_path / "captions.csv", tmp_path / "out.csv", columns={"colour": "x"})
    done = export_captions(
        Patch.of("s", [{"decision": "drop_caption", "caption_id": "c3"}]),
        tmp_path / "captions.csv",
        tmp_path / "out.csv",
        columns={"image_id": "picture", "caption": "words"},
    )
    assert done.removed == 1


def test_a_data_set_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Mine:
        def __init__(self, root: Path | None) -> None: ...

    monkeypatch.setattr(registry, "create", lambda _kind, _spec, **_others: Mine(None))
    with pytest.raises(ConfigError, match="'mine' are not known here"):
        export_sources(Patch.of("s"), "mine", tmp_path, tmp_path / "out")


def test_command(demo_store: Path, tmp_path: Path) -> None:
    """The files of the data set that the store was made of, found by its recipe."""
    store = labelgen.open(demo_store)
    gone = store.caption_ids([4])[0]
    file = write(Patch.of(store, [{"decision": "drop_caption", "caption_id": gone}]), tmp_path / "patch.json")
    arguments = ["audit", str(demo_store), "--check", str(file), "--clean", str(tmp_path / "clean")]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["cleaned"] == {"path": str(tmp_path / "clean"), "kept": 379, "removed": 1}
    assert gone not in (tmp_path / "clean" / "captions.csv").read_text(encoding="utf-8")
    alone = CliRunner().invoke(cli, ["audit", str(demo_store), "--clean", str(tmp_path / "clean")])
    assert alone.exit_code == 2
    assert "--check" in alone.output


def dotted_shard(root: Path) -> None:
    """Keys with dots, several texts a key, masks, members of other kinds, and long names."""
    names = ["a.jpg", "a.seg.png", "a.cls", "a.0.txt", "a.1.txt", "b.v2.jpg", "b.v2.txt", "b.v2.json", "__index__.json"]
    names += ["n" * 120 + ".jpg", "n" * 120 + ".txt", "t.txt", "t.json", "f.jpg", "f.txt", "f.5.jpg", "f.5.txt"]
    with tarfile.open(root / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            data = b'{"caption": "other"}' if name.endswith(".json") else f"of {name}".encode()
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.pax_headers = len(data), 1234.5, {"comment": "kept"}
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("drop", ["a#0", "a#1", "b.v2#0", "t#0", "f.5", "a", "b.v2", "n" * 120, "n" * 120 + "#0"])
def test_shards_by_the_rules_of_the_reader(drop: str, tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    dotted_shard(root)
    before = read("webdataset", root)
    decision = (
        {"decision": "drop_caption", "caption_id": drop}
        if "#" in drop
        else {"decision": "drop_image", "image_id": drop}
    )
    patch = Patch.of("s", [decision])
    done = export_sources(patch, "webdataset", root, out)
    after, expected = read("webdataset", out), without(before, patch)
    assert told(after, alone=False) == told(expected, alone=False)
    assert [image.file for image in after.images] == [
        image.file for image in expected.images if image.file or drop != "t#0"
    ]
    assert (done.kept, done.kept + done.removed) == (len(after.captions), len(before.captions))
    with tarfile.open(root / "0.tar") as old, tarfile.open(out / "0.tar") as new:
        members = {member.name: member for member in old}
        for member in new:
            assert (member.mtime, member.type) == (members[member.name].mtime, members[member.name].type)
            assert member.pax_headers.get("comment") == members[member.name].pax_headers.get("comment")
        gone = set(members) - set(new.getnames())
    assert (
        gone
        == {
            "a": {"a.jpg", "a.seg.png", "a.cls", "a.0.txt", "a.1.txt"},
            "b.v2": {"b.v2.jpg", "b.v2.txt", "b.v2.json"},
            "n" * 120: {"n" * 120 + ".jpg", "n" * 120 + ".txt"},
            "f.5": {"f.5.jpg", "f.5.txt"},
            "a#0": {"a.0.txt"},
            "a#1": {"a.1.txt"},
            "b.v2#0": {"b.v2.txt"},
            "t#0": {"t.txt"},
            "n" * 120 + "#0": {"n" * 120 + ".txt"},
        }[drop]
    )


def test_a_shard_whose_keys_would_change_is_refused(tmp_path: Path) -> None:
    """Without its caption `f.seg` would be a further picture of `f`, and no image."""
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
        for name in ("f.jpg", "f.txt", "f.seg.jpg", "f.seg.txt"):
            info = tarfile.TarInfo(name)
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    patch = Patch.of("s", [{"decision": "drop_caption", "caption_id": "f.seg#0"}])
    with pytest.raises(DatasetError, match="would be read under other keys") as caught:
        export_sources(patch, "webdataset", root, tmp_path / "out")
    assert "'f.seg'" in caught.value.found


def test_damaged_shards_are_cleaned_to_whole_ones(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    dotted_shard(root)
    whole = (root / "0.tar").read_bytes()
    (root / "0.tar").write_bytes(whole[: len(whole) // 2])
    patch = Patch.of("s", [{"decision": "drop_caption", "caption_id": "a#0"}])
    with pytest.raises(DatasetError, match="it is damaged"):
        export_sources(patch, "webdataset", root, out)
    export_sources(patch, "webdataset(damaged='quarantine')", root, out)
    expected = without(read("webdataset(damaged='quarantine')", root), patch)
    assert told(read("webdataset", out), alone=False) == told(expected, alone=False)


def test_lines_as_captions_are_left_out_one_by_one(tmp_path: Path) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
        info = tarfile.TarInfo("k.txt")
        info.size = 14
        tar.addfile(info, io.BytesIO(b"one\ntwo\nthree\n"))
    patch = Patch.of("s", [{"decision": "drop_caption", "caption_id": "k#1"}])
    export_sources(patch, "webdataset(lines=True)", root, out)
    assert [item.text for item in read("webdataset(lines=True)", out).captions] == ["one", "three"]
