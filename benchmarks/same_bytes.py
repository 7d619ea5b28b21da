"""Does this checkout make the same stores as an older commit? Both build from fixed recipes; digests are compared.

    python benchmarks/same_bytes.py f7d3377

Every recipe names every choice: teachers, precision, relations, k. Stores: the demo set with its bundled teachers; a
table with looked-up features and a trained (siamese) teacher, by every exact engine that both trees have; the same
table built from one part of its images and appended to. Exits with 1 where a digest differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from trees import HERE, bundled, labelgen, old_tree

IMAGES, DIM = 160, 24
RELATIONS = ("t2t", "i2t", "t2i", "i2i")
#: Engines of either tree, the reference first; one that a tree does not know is left out and reported.
ENGINES = ("numpy", "fused", "fused(least_rows=1)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older version")
    options = parser.parse_args()
    with old_tree(options.commit) as old, tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        _made_data(data)
        digests = {name: dict(_stores(tree, data, Path(folder) / name)) for name, tree in (("old", old), ("new", HERE))}
    same = True
    print("| store | old | new | |\n|---|---|---|---|")
    for name in {**digests["old"], **digests["new"]}:
        first, second = digests["old"].get(name, "not built"), digests["new"].get(name, "not built")
        word = "equal" if first == second else "not in both" if "not built" in (first, second) else "DIFFERENT"
        same &= word != "DIFFERENT"
        print(f"| {name} | {first} | {second} | {word} |")
    sys.exit(not same)


def _stores(tree: Path, data: Path, out: Path) -> Iterator[tuple[str, str]]:
    """(name, content digest) of every store that the tree makes."""
    yield "demo", _build(tree, out / "demo", "--dataset", "demo", *_lists("64"), *bundled(tree))
    for engine in ENGINES:
        if _has_engine(tree, engine):
            choice = (*_table(data / "all"), *_lists("8"), *_features(data), "--refine", "siamese(of='text')")
            yield f"looked up, trained; {engine}", _build(tree, out / engine, *choice, "--engine", engine)
    grown = out / "grown"
    _build(tree, grown, *_table(data / "first"), *_lists("8"), *_features(data))
    yield "appended", _build(tree, grown, "--append", "--root", str(data / "second"))


def _lists(k: str) -> list[str]:
    return [*(part for relation in RELATIONS for part in ("--relation", relation)), "--k", k, "--aggregation", "max"]


def _table(root: Path) -> list[str]:
    return ["--dataset", "table", "--root", str(root)]


def _features(data: Path) -> list[str]:
    text = f"text=precomputed(path={str(data / 'text.npz')!r}, modality='text')"
    image = f"image=precomputed(path={str(data / 'image.npz')!r}, modality='image')"
    return ["--teacher", text, "--teacher", image]


def _build(tree: Path, out: Path, *arguments: str) -> str:
    labelgen(tree, "build", *arguments, "--out", str(out), "--progress", "none")
    digest: str = json.loads((out / "manifest.json").read_bytes())["content_digest"]
    return digest


def _has_engine(tree: Path, engine: str) -> bool:
    """Whether the tree's own list of entry points has the engine (what is installed may be another tree's)."""
    name = engine.partition("(")[0]
    return f'\n{name} = "labelgen.similarity.' in (tree / "pyproject.toml").read_text(encoding="utf-8")


def _made_data(folder: Path) -> None:
    """Images with none to five captions and features that repeat, so that scores tie; whole, and in two parts."""
    draw = np.random.default_rng(3)
    few = draw.standard_normal((40, DIM)).astype(np.float32)
    rows, text, image = [], {}, {}
    for number in range(IMAGES):
        name = f"i{number}"
        image[name] = few[draw.integers(0, 40)]
        split = ("train", "val", "test")[int(draw.integers(0, 3))]
        for position in range(int(draw.integers(1, 6))):
            caption = f"{name}#{position}"
            text[caption] = few[draw.integers(0, 40)] + draw.standard_normal(DIM).astype(np.float32) / 8
            words = f"text {draw.integers(0, 3 * IMAGES)}"
            rows.append({"image_id": name, "caption_id": caption, "caption": words, "split": split})
    parts = {"all": rows, "first": rows[: len(rows) // 2], "second": rows[len(rows) // 2 :]}
    border = parts["first"][-1]["image_id"]
    parts["second"] = [row for row in parts["second"] if row["image_id"] != border]
    for name, listed in parts.items():
        (folder / name).mkdir(parents=True)
        lines = "".join(f"{json.dumps(row)}\n" for row in listed)
        (folder / name / "captions.jsonl").write_text(lines, encoding="utf-8")
    np.savez(folder / "text.npz", **text)
    np.savez(folder / "image.npz", **image)


if __name__ == "__main__":
    main()
