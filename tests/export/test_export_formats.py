"""Neutral formats: scipy, numpy, parquet and the layout of Hugging Face's datasets; values exact, memory bounded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.cli.commands.export import TARGETS as CLI_TARGETS
from labelgen.cli.main import cli
from labelgen.errors import ConfigError
from labelgen.export import base
from labelgen.export.arrays import Stream, write_npy, write_npz, write_pickled_dict
from labelgen.export.base import Options
from labelgen.export.targets import TARGETS, export
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store
from labelgen.types import PAD_ROW


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Lists of 12 over few images, so that some are short."""
    root = make_store(tmp_path_factory.mktemp("export") / "store", n_images=10, captions_per_image=2, k=12)
    return labelgen.open(root)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Images with none to seven captions; image 5 and captions 3 and 7 have no embedding."""
    sizes = {"n_images": 8, "captions_per_image": (5, 2, 0, 1, 7, 3, 4, 2)}
    root = make_store(tmp_path_factory.mktemp("uneven") / "store", **sizes, missing_images=[5], missing_captions=[3, 7])
    return labelgen.open(root)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces for every array."""
    monkeypatch.setattr(base, "PIECE_BYTES", 300)


def test_csr_graphs(store: Store, tmp_path: Path) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    export(store, "csr", tmp_path)
    with np.load(tmp_path / "ids.npz") as ids:
        assert ids["image_ids"].tolist() == [f"img-{row}" for row in range(10)]
    for relation, alias, shape in (("t2t", "text", (20, 20)), ("i2t", "text", (10, 20)), ("i2i", "image", (10, 10))):
        found = store.neighbors(relation)
        near = sparse.load_npz(tmp_path / f"{relation}.{alias}.k12.similarity.npz")
        far = sparse.load_npz(tmp_path / f"{relation}.{alias}.k12.distance.npz")
        assert near.shape == far.shape == shape
        assert near.nnz == (found.rows != PAD_ROW).sum()
        for row in range(shape[0]):
            there = found.rows[row] != PAD_ROW
            entries = slice(near.indptr[row], near.indptr[row + 1])
            assert near.indices[entries].tolist() == found.rows[row][there].tolist()
            np.testing.assert_array_equal(near.data[entries], found.scores[row][there])
            np.testing.assert_array_equal(far.data[entries], np.maximum(1 - found.scores[row][there], 0))
            assert (np.diff(far.data[entries]) >= 0).all(), "nearest first"


def test_npz_archives(store: Store, tmp_path: Path) -> None:
    export(str(store.path), "npz", tmp_path)
    with np.load(tmp_path / "text.text.npz") as archive:
        np.testing.assert_array_equal(archive["rows"], np.asarray(store.embeddings("text")))
    with np.load(tmp_path / "t2i.text.k12.npz") as archive:
        found = store.neighbors("t2i")
        for name, array in zip(("ids", "scores", "next"), found, strict=True):
            np.testing.assert_array_equal(archive[name], array)
    with np.load(tmp_path / "ids.npz") as ids:
        assert ids["caption_ids"].tolist() == [f"cap-{row}" for row in range(20)]
        assert ids["offsets"].tolist() == store.offsets.tolist()
        ranges = zip(ids["splits"].tolist(), ids["split_starts"].tolist(), ids["split_stops"].tolist(), strict=True)
        assert {name: range(start, stop) for name, start, stop in ranges} == store.splits


def long_form(store: Store, relation: str, images: range) -> list[tuple[str, str, int, np.float32]]:
    queries = list(images) if relation[0] == "i" else [row for row in range(20) if row // 2 in images]
    found = store.neighbors(relation, rows=queries)
    query, candidate = ("img-" if relation[0] == "i" else "cap-"), ("img-" if relation[2] == "i" else "cap-")
    return [
        (f"{query}{row}", f"{candidate}{item}", rank, score)
        for row, ids, scores in zip(queries, found.rows.tolist(), found.scores, strict=True)
        for rank, (item, score) in enumerate(zip(ids, scores, strict=True), 1)
        if item != PAD_ROW
    ]


@pytest.mark.parametrize("relation", ["t2t", "i2t", "t2i", "i2i"])
def test_long_form_parquet(store: Store, tmp_path: Path, relation: str) -> None:
    export(store, "parquet", tmp_path, Options(splits=("val",)))
    (file,) = (tmp_path / "neighbors").glob(f"{relation}.*.parquet")
    frame = pl.read_parquet(file)
    assert frame.columns == ["query_id", "candidate_id", "rank", "score"]
    assert frame.rows() == long_form(store, relation, store.splits["val"])
    assert pl.read_parquet(tmp_path / "captions.parquet").equals(store.captions)


def test_hugging_face_folder(store: Store, tmp_path: Path) -> None:
    """The card names what lies there; `datasets` itself is not among the test's packages."""
    yaml = pytest.importorskip("yaml")
    export(store, "hf", tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8").split("---")[1]
    configs = {item["config_name"]: item["data_files"] for item in yaml.safe_load(card)["configs"]}
    lists = ["t2t.text.k12", "i2t.text.k12", "t2i.text.k12", "i2i.image.k12"]
    assert sorted(configs) == sorted(["pairs", "text.text", "image.image", *lists])
    for files in configs.values():
        assert [item["split"] for item in files] == ["train", "validation"]
        frames = [pl.read_parquet(tmp_path / item["path"]) for item in files]
        assert frames[0].schema == frames[1].schema
        assert min(frame.height for frame in frames) > 0
    pairs = pl.read_parquet(tmp_path / "pairs" / "validation.parquet")
    wanted = store.captions.filter(pl.col("split") == "val")
    assert pairs["caption"].to_list() == wanted["text"].to_list()
    assert pairs["image_id"].to_list() == [f"img-{row}" for row in wanted["image_row"].to_list()]
    rows = pl.read_parquet(tmp_path / "text.text" / "train.parquet")
    np.testing.assert_array_equal(
        np.array(rows["embedding"].to_list(), np.float32), np.asarray(store.embeddings("text"))[: rows.height]
    )
    listed = pl.read_parquet(tmp_path / "i2i.image.k12" / "train.parquet")
    assert listed.rows() == long_form(store, "i2i", store.splits["train"])


@pytest.mark.parametrize("nearest", [1, 4, 99])
def test_sentence_pairs(store: Store, tmp_path: Path, nearest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs by plain loops, whatever the pieces; every pair once, with its score."""
    from labelgen.export import sentence_pairs

    monkeypatch.setattr(sentence_pairs, "_CAPTIONS", 3)
    written = export(store, "sentence-transformers", tmp_path, Options(nearest=nearest))
    texts = store.captions["text"].to_list()
    equal = 0
    for split, images in store.splits.items():
        captions = [row for row in range(20) if row // 2 in images]
        wanted: dict[frozenset[int], float] = {frozenset((2 * row, 2 * row + 1)): 1.0 for row in images}
        listed = store.neighbors("t2t", rows=captions)
        for query, row in enumerate(captions):
            for other, score in list(zip(listed.rows[query].tolist(), listed.scores[query].tolist(), strict=True))[
                :nearest
            ]:
                if other != PAD_ROW:
                    wanted[frozenset((row, other))] = score
        frame = pl.read_parquet(tmp_path / f"{'validation' if split == 'val' else split}.parquet")
        assert frame.schema == {"sentence1": pl.String, "sentence2": pl.String, "score": pl.Float32}
        pairs = [(tuple(sorted(texts[row] for row in pair)), score) for pair, score in wanted.items()]
        differ = [pair for pair in pairs if len(set(pair[0])) == 2]
        equal += len(pairs) - len(differ)
        found = [(tuple(sorted(row[:2])), row[2]) for row in frame.rows()]
        assert sorted(found) == sorted(differ)
    assert any("pairs of one image" in note for note in written.notes)
    assert any(f"{equal} pairs of equal texts" in note for note in written.notes) == bool(equal)
    assert any("the list has no more" in note for note in written.notes) == (nearest == 99)


def test_sentence_pairs_of_captions_without_rows(tmp_path: Path) -> None:
    root = make_store(
        tmp_path / "store", n_images=6, captions_per_image=[2, 0, 3, 1, 2, 2], missing_captions=[1, 3], k=3
    )
    store = labelgen.open(root)
    export(store, "sentence-transformers", tmp_path / "out")
    frames = pl.concat([pl.read_parquet(file) for file in (tmp_path / "out").glob("*.parquet")])
    used = {*frames["sentence1"], *frames["sentence2"]}
    texts = store.captions["text"].to_list()
    assert not {texts[1], texts[3]} & used - {texts[row] for row in range(10) if row not in (1, 3)}
    assert frames.height > 0
    with pytest.raises(ConfigError, match="nearest=0"):
        export(store, "sentence-transformers", tmp_path / "none", Options(nearest=0))
    plain = labelgen.open(make_store(tmp_path / "plain", n_images=4, lists=False))
    with pytest.raises(ConfigError):
        export(plain, "sentence-transformers", tmp_path / "none")


@pytest.mark.parametrize("relation", ["t2t", "i2t", "t2i", "i2i"])
def test_lists_with_texts_and_positives(uneven: Store, tmp_path: Path, relation: str) -> None:
    export(uneven, "hf", tmp_path, Options(texts=True, positives=True))
    (file,) = tmp_path.glob(f"{relation}.*/train.parquet")
    frame = pl.read_parquet(file)
    words = {"i": "file", "t": "text"}
    texts = [f"query_{words[relation[0]]}", f"candidate_{words[relation[2]]}"]
    assert frame.columns == ["query_id", "candidate_id", "rank", "score", "positive", *texts]
    listed = frame.filter(~pl.col("positive"))
    export(uneven, "hf", tmp_path)
    assert listed.select("query_id", "candidate_id", "rank", "score").equals(pl.read_parquet(file))
    assert frame["query_id"].to_list() == sorted(frame["query_id"], key=lambda name: int(name.rpartition("-")[2]))
    for query, candidate, rank, score, *_ in frame.filter("positive").iter_rows():
        assert rank == 0
        image = query if relation[0] == "i" else candidate
        captions = [candidate] if relation == "i2t" else [query] if relation == "t2i" else [query, candidate]
        sides = {"caption_ids": captions} | ({} if relation == "t2t" else {"image_ids": [image]})
        block, where = uneven.block(relation, missing="mask", **sides)
        assert score == (block[0, -1] if where[0, -1] else None)
        assert (
            len(
                set(uneven.image_of(uneven.caption_rows(captions)))
                | set(uneven.image_rows([image]) if sides.get("image_ids") else ())
            )
            == 1
        )
    sizes = np.diff(uneven.offsets)[np.asarray(uneven.splits["train"])]
    pairs = {"t2t": (sizes * (sizes - 1)).sum(), "i2i": 0}.get(relation, sizes.sum())
    assert frame["positive"].sum() == pairs
    columns = {"i": (uneven.images, "image_id", "file"), "t": (uneven.captions, "caption_id", "text")}
    for side, text, kind in (("query_id", texts[0], relation[0]), ("candidate_id", texts[1], relation[2])):
        table, name, column = columns[kind]
        known = dict(zip(table[name], table[column], strict=True))
        assert frame[text].to_list() == [known[item] for item in frame[side]]


@pytest.mark.parametrize(
    "array", [np.arange(7, dtype="<f4"), np.array(["é", "long"]), np.array(b"csr"), np.zeros((0, 3))]
)
def test_numpy_reads_what_is_written(array: Any, tmp_path: Path) -> None:
    write_npy(tmp_path / "a.npy", Stream.of(array))
    write_npz(tmp_path / "a.npz", {"x": Stream.of(array), "y": Stream.of(array)})
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    with np.load(tmp_path / "a.npz") as archive:
        np.testing.assert_array_equal(archive["y"], array)


def test_a_dict_of_arrays_is_never_whole_in_memory(tmp_path: Path) -> None:
    """200 arrays of 1 MB: their peak is a few of them."""
    import tracemalloc

    def items() -> Any:
        for number in range(200):
            yield f"image-{number}", np.full((1, 250_000), number, np.float32)

    tracemalloc.start()
    try:
        fact = write_pickled_dict(tmp_path / "d.npy", items())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fact.bytes > 200e6
    assert peak < 20e6
    found = np.load(tmp_path / "d.npy", allow_pickle=True).item()
    assert [float(value[0, -1]) for value in found.values()] == list(range(200))


def test_the_command(store: Store, tmp_path: Path) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    told = run(cli, ["export", str(store.path), "--for", "itm-cls", "--out", str(tmp_path / "a"), "--json"])
    assert told.exit_code == 0, told.output
    assert "train_image_emb.npy" in json.loads(told.stdout)["files"]
    told = run(cli, ["export", str(store.path), "--for", "npz", "--out", str(tmp_path / "b"), "--splits", "nowhere"])
    assert told.exit_code == 2
    told = run(cli, ["export", str(store.path), "--for", "listwise-itr", "--out", str(tmp_path / "c")])
    assert "images with fewer than five captions" in told.stdout
    assert tuple(TARGETS) == CLI_TARGETS
