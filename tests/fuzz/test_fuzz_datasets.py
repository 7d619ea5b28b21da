"""Damaged data sets: tables, archives, token files, annotations, read by `plan` and now and then built."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fuzz_harness import ODD, check, fuzz, mutated_bytes, mutated_tree, rounds, run
from PIL import Image

Made = Mapping[str, bytes]
ROWS = [
    {"image_id": f"a{n}.jpg", "caption_id": f"a{n}.jpg#0", "caption": f'a "text", no {n}', "split": "train"}
    for n in range(8)
]
BUILT = 0.04  # share of the examples that are built: a build takes twenty times as long as a plan


def read(draw: random.Random, dataset: str, root: Path, features: Path, *options: str) -> None:
    """`plan` or `build` over a damaged data set, with a recipe of its own: the shipped ones load networks."""
    recipe = root.parent / "recipe.toml"
    teacher = f"precomputed(path='{features}', modality='text')"
    recipe.write_text(f'dataset.name = "{dataset}"\nteachers.text = "{teacher}"\n', encoding="utf-8")
    shared = ["--recipe", recipe, "--root", root, "--progress", "none", *options]
    if draw.random() < BUILT:
        check(run("build", *shared, "--out", root.parent / "store", "--engine", "numpy", "--k", 3), root)
    else:
        check(run("plan", *shared, "--no-calibrate", *(["--json"] if draw.random() < 0.2 else [])), root)


def write(root: Path, files: Made) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def damaged(files: Made, draw: random.Random, count: int) -> dict[str, bytes]:
    """One file damaged; or it is gone, empty, or has the bytes of another one."""
    made = dict(files)
    name = draw.choice(sorted(made))
    kind = draw.random()
    if kind < 0.85:
        made[name] = mutated_bytes(made[name], draw, count)
    elif kind < 0.9:
        del made[name]
    else:
        made[name] = draw.choice((b"", made[draw.choice(sorted(made))], draw.randbytes(600)))
    return made


# ----------------------------------------------------------------------------------------------------------- tables


def _separated(separator: str) -> bytes:
    lines = [list(ROWS[0])] + [list(row.values()) for row in ROWS]
    quoted = ['"' + text.replace('"', '""') + '"' if separator == "," else text for line in lines for text in line]
    width = len(ROWS[0])
    return "".join(separator.join(quoted[n : n + width]) + "\n" for n in range(0, len(quoted), width)).encode()


def _parquet(rows: list[Any]) -> bytes:
    data = io.BytesIO()
    pl.DataFrame(rows, strict=False).write_parquet(data, compression="uncompressed")
    return data.getvalue()


TABLES: Mapping[str, Callable[[], bytes]] = {
    "captions.csv": lambda: _separated(","),
    "captions.tsv": lambda: _separated("\t"),
    "captions.jsonl": lambda: "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "captions.parquet": lambda: _parquet(ROWS),
}


@rounds(20, 2_000)
@pytest.mark.parametrize("name", TABLES)
def test_tables(examples: int, name: str, features: Path) -> None:
    data = TABLES[name]()

    def body(draw: random.Random, count: int, folder: Path) -> None:
        if draw.random() < 0.1:  # several tables in one folder
            (folder / "more").mkdir()
            write(folder / "more", {other: make() for other, make in TABLES.items()})
        root = write(folder / "data", damaged({name: data}, draw, count))
        root.mkdir(exist_ok=True)
        read(draw, "table", root, features)

    fuzz(examples, body)


@rounds(15, 1_000)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_tables_of_odd_values(examples: int, kind: str, features: Path) -> None:
    def body(draw: random.Random, count: int, folder: Path) -> None:
        rows = mutated_tree(ROWS, draw, count)
        listed = rows if isinstance(rows, list) else [rows]
        if kind == "jsonl":
            data = "".join(json.dumps(row) + "\n" for row in listed).encode()
        else:
            try:
                data = _parquet(listed)
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
                return  # values that polars cannot hold in one column
        read(draw, "table", write(folder / "data", {f"captions.{kind}": data}), features)

    fuzz(examples, body)


# --------------------------------------------------------------------------------------------------------- archives


def _photo() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 12), (200, 10, 60)).save(data, "JPEG")
    return data.getvalue()


def _shard(members: list[tuple[str, bytes]], kind: str = "w") -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=kind) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _members() -> list[tuple[str, bytes]]:
    members = []
    for number in range(6):
        members += [
            (f"a{number}.jpg", _photo()),
            (f"a{number}.txt", f"text {number}".encode()),
            (f"a{number}.json", json.dumps({"caption": f"text {number}", "width": 16}).encode()),
        ]
    return members


@rounds(30, 3_000)
def test_archives(examples: int, features: Path) -> None:
    good = _members()

    def body(draw: random.Random, count: int, folder: Path) -> None:
        members = list(good)
        for _ in range(draw.randint(0, count)):
            place = draw.randrange(len(members))
            name, content = members[place]
            members[place] = draw.choice(
                (
                    (mutated_bytes(name.encode(), draw, 1).decode("utf-8", "surrogateescape"), content),
                    (name, mutated_bytes(content, draw, 2)),
                    (str(draw.choice(ODD))[:90], content),
                    (name.replace(".", f".{draw.choice(('0', 'v2', 'x'))}.", 1), content),
                    (draw.choice(members)[0], content),
                )
            )
        shard = _shard(members, draw.choice(("w", "w", "w", "w:gz")))
        if draw.random() < 0.6:
            shard = mutated_bytes(shard, draw, count)
        files = {"00000.tar": shard}
        if draw.random() < 0.2:
            files[draw.choice(("00001.tar", "00001.tar.gz", "b/00000.tar"))] = _shard(good)
        read(draw, "webdataset", write(folder / "data", files), features)

    fuzz(examples, body)


# ---------------------------------------------------------------------------------------- token files, annotations


def _karpathy(dataset: str) -> bytes:
    images = [
        {
            "filename": f"a{n}.jpg", "filepath": "val2014", "cocoid": n, "imgid": n, "split": "train", "sentids": [n],
            "sentences": [{"raw": f"text {n}", "sentid": n, "imgid": n, "tokens": ["text", str(n)]}],
        }
        for n in range(8)
    ]  # fmt: skip
    return json.dumps({"images": images, "dataset": dataset}).encode()


def _coco() -> bytes:
    return json.dumps(
        {
            "info": {},
            "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(8)],
            "annotations": [{"id": 100 + n, "image_id": n, "caption": f"text {n}"} for n in range(8)],
        }
    ).encode()


_TOKENS = "".join(f"a{n}.jpg#{m}\ttext {n} {m}\n" for n in range(8) for m in range(2)).encode()
_HEX = [f"{number:032x}" for number in range(8)]

LAYOUTS: Mapping[str, tuple[str, Callable[[], Made]]] = {
    "flickr8k tokens": ("flickr8k", lambda: {
        "Flickr8k.token.txt": _TOKENS, "Flickr_8k.trainImages.txt": b"a0.jpg\na1.jpg\n",
        "Flickr_8k.devImages.txt": b"a2.jpg\n", "Flickr_8k.testImages.txt": b"a3.jpg\n",
    }),
    "flickr8k json": ("flickr8k", lambda: {"dataset_flickr8k.json": _karpathy("flickr8k")}),
    "flickr30k tokens": ("flickr30k", lambda: {
        "results_20130124.token": _TOKENS, "train.txt": b"a0\na1\n", "val.txt": b"a2\n",
    }),
    "flickr30k json": ("flickr30k", lambda: {"dataset_flickr30k.json": _karpathy("flickr30k")}),
    "coco karpathy": ("coco", lambda: {"dataset_coco.json": _karpathy("coco")}),
    "coco own": ("coco", lambda: {"captions_train2014.json": _coco(), "captions_val2014.json": _coco()}),
    "cusa": ("cusa", lambda: {
        f"new_{split}.json": json.dumps(
            [{"image_path": f"./pics/{split}{n}.jpg", "caption": f"text {n}", "image_id": n} for n in range(4)]
        ).encode()
        for split in ("train", "val")
    }),
    "folder texts": ("folder", lambda: {
        f"a{n}{end}": data for n in range(4) for end, data in ((".jpg", _photo()), (".txt", b"a text\n"))
    }),
    "folder jsonl": ("folder", lambda: {
        "captions.jsonl": b"".join(b'{"file": "a%d.jpg", "captions": ["one", "two"]}\n' % n for n in range(4)),
        **{f"a{n}.jpg": _photo() for n in range(4)},
    }),
    "wikipedia": ("wikipedia", lambda: {
        "trainset_txt_img_cat.list": f"{_HEX[1]}-3\t{_HEX[2]}\t2\n{_HEX[3]}-5.8\t{_HEX[4]}\t1\n".encode(),
        "testset_txt_img_cat.list": f"{_HEX[5]}-1\t{_HEX[6]}\t2\n".encode(), "categories.list": b"art\nbiology\n",
        **{
            f"texts/{_HEX[n]}-{end}.xml": b"<document><text>A text &amp; more</text></document>"
            for n, end in ((1, "3"), (3, "5.8"), (5, "1"))
        },
    }),
}  # fmt: skip


@rounds(10, 1_000)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(examples: int, layout: str, features: Path) -> None:
    dataset, make = LAYOUTS[layout]
    files = make()

    def body(draw: random.Random, count: int, folder: Path) -> None:
        made = damaged(files, draw, count)
        names = [name for name in made if name.endswith(".json")]
        if names and draw.random() < 0.6:  # JSON that stays JSON
            name = draw.choice(sorted(names))
            made = {**files, name: json.dumps(mutated_tree(json.loads(files[name]), draw, count)).encode()}
        root = write(folder / "data", made)
        root.mkdir(exist_ok=True)
        read(draw, dataset, root, features)

    fuzz(examples, body)
