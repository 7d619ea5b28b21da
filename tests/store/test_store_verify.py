"""Whatever is done to a store, `verify` names the file and, where there are any, the rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from labelgen.errors import StoreFormatError, StoreNotFoundError
from labelgen.fingerprint import digest_file
from labelgen.progress import Event
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.parquet import read_frame, write_frame
from labelgen.store.disk.shards import write_array
from labelgen.store.manifest import Manifest, content_digest, load_manifest, save_manifest
from labelgen.store.splits import SplitRows
from labelgen.store.verify.findings import ProblemList
from labelgen.store.verify.store import verify
from labelgen.testing.stores import make_store
from labelgen.types import PAD_ROW

Cut = Callable[[int, int], AbstractContextManager[None]]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x10
    path.write_bytes(data)


def reseal(root: Path, **changes: Any) -> Manifest:
    """Sign what lies in the folder, as a wrong writer would: only the meaning of the files can give it away."""
    manifest = load_manifest(root)
    files = {path: FileFact((root / path).stat().st_size, digest_file(root / path)) for path in manifest.files}
    manifest = replace(manifest, files=files, content_digest=content_digest(files), **changes)
    save_manifest(root, manifest)
    return manifest


def rewrite(root: Path, path: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an array with the production writer, and sign it."""
    (spec,) = (spec for spec in load_manifest(root).arrays() if spec.path == path)
    from labelgen.store.disk.mapped import MappedArray

    write_array(root, spec, change(np.array(MappedArray(root, spec))))
    reseal(root)


def whats(root: Path) -> list[str]:
    return [str(problem) for problem in verify(root).problems]


def test_a_whole_store(made_store: Path) -> None:
    events: list[Event] = []
    report = verify(made_store, progress=events.append)
    manifest = load_manifest(made_store)
    assert report.ok
    assert (report.problems, report.notes) == ((), ())
    assert report.content_digest == manifest.content_digest
    assert (report.files, report.bytes) == (len(manifest.files), manifest.total_bytes)
    assert "whole" in str(report)
    assert [event.kind for event in events[:2]] == ["start", "task"]
    assert events[-1].done == events[-1].total == manifest.total_bytes
    assert {event.text for event in events if event.kind == "task"} == set(manifest.files)


@pytest.fixture(scope="module")
def cut_store(tmp_path_factory: pytest.TempPathFactory, small_cut: Cut) -> Path:
    """30 captions of 16 float16: 4 rows a chunk, 16 rows a shard."""
    with small_cut(512, 128):
        return make_store(
            tmp_path_factory.mktemp("cut") / "store", n_images=10, captions_per_image=3, dims={"text": 16}
        )


CHUNK = 4 * 32 + 4


@pytest.mark.parametrize(
    ("shard", "position", "rows"),
    [
        (0, 0, (0, 4)),  # the first byte
        (0, 40, (0, 4)),  # row 1
        (0, 128, (0, 4)),  # the checksum of the first chunk
        (0, 2 * CHUNK + 5, (8, 12)),
        (0, 4 * CHUNK + 3, None),  # the index
        (0, -1, None),  # its checksum
        (1, 0, (16, 20)),
        (1, 3 * CHUNK + 70, (28, 30)),  # the filling after the last row
    ],
)
def test_a_flipped_byte_in_every_region_of_a_shard(
    cut_store: Path, tmp_path: Path, small_cut: Cut, shard: int, position: int, rows: tuple[int, int] | None
) -> None:
    with small_cut(512, 128):
        root = shutil.copytree(cut_store, tmp_path / "store")
        path = f"embeddings/text/text/c/{shard}/0"
        flip(root / path, position)
        (problem,) = verify(root).problems
    assert (problem.file, problem.rows) == (path, rows)
    assert "other content" in problem.what
    assert ("index" in problem.what) == (rows is None)


def test_neighbouring_damage_is_joined(cut_store: Path, tmp_path: Path, small_cut: Cut) -> None:
    with small_cut(512, 128):
        root = shutil.copytree(cut_store, tmp_path / "store")
        for position in (0, CHUNK, 3 * CHUNK):
            flip(root / "embeddings/text/text/c/0/0", position)
        assert [problem.rows for problem in verify(root).problems] == [(0, 8), (12, 16)]


def test_a_truncated_shard(cut_store: Path, tmp_path: Path, small_cut: Cut) -> None:
    with small_cut(512, 128):
        root = shutil.copytree(cut_store, tmp_path / "store")
        path = root / "embeddings/text/text/c/1/0"
        path.write_bytes(path.read_bytes()[: 2 * CHUNK + 7])
        (problem,) = verify(root).problems
    assert problem.rows == (24, 30)
    assert f"has {2 * CHUNK + 7} bytes instead of" in problem.what


def test_a_missing_shard(cut_store: Path, tmp_path: Path, small_cut: Cut) -> None:
    with small_cut(512, 128):
        root = shutil.copytree(cut_store, tmp_path / "store")
        (root / "embeddings/text/text/c/1/0").unlink()
        (problem,) = verify(root).problems
    assert (problem.file, problem.rows, problem.what) == ("embeddings/text/text/c/1/0", (16, 30), "is missing")


def test_a_shard_written_anew_with_right_checksums(broken: Path) -> None:
    spec = layout.embedding_spec("text", "text", 24, 16)
    write_array(broken, spec, np.zeros((24, 16), np.float16))
    (problem,) = verify(broken).problems
    assert "rows 0 to 23 were written again" in problem.what


def test_a_flipped_byte_in_any_file(tmp_path: Path) -> None:
    """Every file of a store, in its middle; the manifest too, wherever that leaves it readable."""
    original = make_store(tmp_path / "store", n_images=3, captions_per_image=1, dims={"image": 4})
    manifest = load_manifest(original)
    for path in manifest.files:
        data = (original / path).read_bytes()
        flip(original / path, len(data) // 2)
        found = verify(original)
        assert any(problem.file == path for problem in found.problems), path
        (original / path).write_bytes(data)
    assert verify(original).ok


def test_missing_unlisted_and_left_over_files(broken: Path) -> None:
    (broken / "corpus" / "images.parquet").unlink()
    (broken / "notes.txt").write_text("mine")
    (broken / "embeddings" / ".0.77-ab.tmp").write_text("half")
    (broken / ".labelgen" / "parts").mkdir(parents=True)
    (broken / ".labelgen" / "parts" / "x.npy").write_text("work")
    report = verify(broken)
    assert [str(problem) for problem in report.problems] == [
        "corpus/images.parquet: is missing",
        "notes.txt: is not listed in the manifest",
    ]
    assert report.notes == ("embeddings/.0.77-ab.tmp was left behind by a writer that was killed",)


def test_a_pending_note_excuses_nothing(broken: Path) -> None:
    (broken / ".labelgen").mkdir()
    pending = {"paths": ["neighbors/t2t.text.k9", "corpus.", ""]}
    (broken / ".labelgen" / "pending.json").write_text(json.dumps(pending))
    for path in ("neighbors/t2t.text.k9/ids/notes.txt", "corpus.2/images.parquet", "corpusx"):
        (broken / path).parent.mkdir(parents=True, exist_ok=True)
        (broken / path).write_text("new")
    (broken / "README.md").write_text("the card of the change")
    report = verify(broken)
    assert sorted(problem.file for problem in report.problems) == [
        "README.md",
        "corpus.2/images.parquet",
        "corpusx",
        "neighbors/t2t.text.k9/ids/notes.txt",
    ]
    assert len(report.notes) == 1
    assert "not finished" in report.notes[0]


def test_a_pending_note_that_cannot_be_read(broken: Path) -> None:
    (broken / ".labelgen").mkdir()
    (broken / ".labelgen" / "pending.json").write_text("{")
    assert verify(broken).notes == (".labelgen/pending.json cannot be read",)


def test_an_edited_manifest(broken: Path) -> None:
    document = json.loads((broken / "manifest.json").read_text())
    document["labelgen"] = "9.9"
    (broken / "manifest.json").write_text(json.dumps(document))
    assert whats(broken) == ["manifest.json: was edited after it was sealed: its digest does not match"]


def test_an_edited_content_digest(broken: Path) -> None:
    save_manifest(broken, replace(load_manifest(broken), content_digest="0" * 32))
    assert whats(broken) == ["manifest.json: the content digest is not that of the listed files"]


def test_a_manifest_that_forgets_a_shard(broken: Path) -> None:
    manifest = load_manifest(broken)
    files = {path: fact for path, fact in manifest.files.items() if path != "embeddings/text/text/c/0/0"}
    save_manifest(broken, replace(manifest, files=files, content_digest=content_digest(files)))
    assert any("lists no such file" in what for what in whats(broken))
    assert any("is not listed" in what for what in whats(broken))


@pytest.mark.parametrize("text", ["{", "\x80"])
def test_a_manifest_that_is_no_json(broken: Path, text: str) -> None:
    (broken / "manifest.json").write_bytes(text.encode("latin-1"))
    (problem,) = verify(broken).problems
    assert problem.file == "manifest.json"


def test_a_manifest_with_a_wrong_field(broken: Path) -> None:
    document = json.loads((broken / "manifest.json").read_text())
    document["corpus"]["n_images"] = "eight"
    (broken / "manifest.json").write_text(json.dumps(document))
    assert any("corpus/n_images: 'eight' is not of type 'integer'" in what for what in whats(broken))


def test_no_store_and_another_format_are_errors(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        verify(tmp_path / "nowhere")
    (broken / "manifest.json").write_text('{"format": 2}')
    with pytest.raises(StoreFormatError):
        verify(broken)


# What a store whose checksums are all right can still have wrong.


def test_zero_rows_that_nobody_announced(broken: Path) -> None:
    def erase(rows: np.ndarray) -> np.ndarray:
        rows[[0, 1, 4]] = 0
        return rows

    rewrite(broken, "embeddings/image/image", erase)
    assert whats(broken) == [
        "embeddings/image/image rows 0 to 1: rows are all zero, but not quarantined",
        "embeddings/image/image rows 4 to 4: rows are all zero, but not quarantined",
    ]


def test_zero_rows_of_another_teacher_do_not_excuse_this_one(broken: Path) -> None:
    path = broken / "corpus" / "quarantine.parquet"
    frame = read_frame(path)
    write_frame(path, frame.with_columns(alias=pl.lit("image")))
    reseal(broken)
    assert whats(broken) == [
        "embeddings/text/text rows 3 to 3: rows are all zero, but not quarantined",
        "embeddings/text/text rows 7 to 7: rows are all zero, but not quarantined",
        "embeddings/clip/image rows 5 to 5: rows are all zero, but not quarantined",
        "embeddings/clip/text rows 3 to 3: rows are all zero, but not quarantined",
        "embeddings/clip/text rows 7 to 7: rows are all zero, but not quarantined",
    ]


@pytest.mark.parametrize(("factor", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.5, "unit length")])
def test_rows_that_no_teacher_gives(broken: Path, factor: float, words: str) -> None:
    def spoil(rows: np.ndarray) -> np.ndarray:
        rows[2] *= np.float16(factor)
        return rows

    rewrite(broken, "embeddings/text/text", spoil)
    (what,) = whats(broken)
    assert what.startswith("embeddings/text/text rows 2 to 2")
    assert words in what


def test_a_constant_teacher(broken: Path) -> None:
    def same(rows: np.ndarray) -> np.ndarray:
        rows[[row for row in range(24) if row not in (3, 7)]] = rows[0]
        return rows

    rewrite(broken, "embeddings/text/text", same)
    assert whats(broken) == ["embeddings/text/text rows 0 to 23: all rows are equal: this teacher was a constant"]


LISTS = "neighbors/t2t.text.k4"


@pytest.mark.parametrize(
    ("name", "column", "value", "words"),
    [
        ("ids", 0, 24, "no rows of the store"),
        ("ids", 1, 0, "query's image"),  # row 1 is of image 0, as caption 0 is
        ("ids", 0, 23, "query's image or of the wrong split"),
        ("ids", 0, PAD_ROW, "filling is not at the end"),
        ("scores", 3, 2.0, "no similarities"),
        ("scores", 3, np.nan, "no similarities"),
        ("scores", 3, 1.0, "not sorted"),
        ("scores", 0, -np.inf, "filling"),
        ("next", 0, 0.99, "next does not bound"),
        ("next", 0, np.nan, "next does not bound"),
    ],
)
def test_lists_that_no_search_makes(broken: Path, name: str, column: int, value: float, words: str) -> None:
    def spoil(values: np.ndarray) -> np.ndarray:
        if name == "next":
            values[1] = value
        else:
            values[1, column] = value
        return values

    rewrite(broken, f"{LISTS}/{name}", spoil)
    found = verify(broken).problems
    assert any(problem.file == LISTS and problem.rows == (1, 2) and words in problem.what for problem in found), found


def rewrite_list(root: Path, change: Callable[[np.ndarray, np.ndarray, np.ndarray], None], folder: str = LISTS) -> None:
    """Change ids, scores and next of a list of captions together, with the production writer, and sign them."""
    from labelgen.store.disk.mapped import MappedArray

    specs = layout.neighbor_specs(folder, 24, 4)
    arrays = {name: np.array(MappedArray(root, spec)) for name, spec in specs.items()}
    change(arrays["ids"], arrays["scores"], arrays["next"])
    for name, spec in specs.items():
        write_array(root, spec, arrays[name])
    reseal(root)


def test_filling_in_the_middle_of_a_list(broken: Path) -> None:
    """Entry 2 of row 1 is filling with the score of filling, and a real entry comes after it."""

    def spoil(ids: np.ndarray, scores: np.ndarray, bound: np.ndarray) -> None:
        ids[1, 2], scores[1, 2] = PAD_ROW, -np.inf

    rewrite_list(broken, spoil)
    assert f"{LISTS} rows 1 to 1: filling is not at the end, or its scores are not -inf" in whats(broken)


def test_a_bound_after_a_list_that_names_all_candidates(broken: Path) -> None:
    """A list with filling has room for every candidate: `next` of row 1 cannot be the similarity of another one."""

    def spoil(ids: np.ndarray, scores: np.ndarray, bound: np.ndarray) -> None:
        ids[1, 3], scores[1, 3], bound[1] = PAD_ROW, -np.inf, -np.inf

    rewrite_list(broken, spoil)
    assert whats(broken) == []
    rewrite_list(broken, lambda ids, scores, bound: bound.__setitem__(1, -0.5))
    assert whats(broken) == [f"{LISTS} rows 1 to 1: next does not bound the list"]


def test_a_list_of_the_other_splits(broken: Path) -> None:
    """A list with the scope `cross` may hold other splits only: the list of the own split with this name is wrong."""
    manifest = load_manifest(broken)
    folder = LISTS.replace(".k4", ".cross.k4")
    (broken / LISTS).rename(broken / folder)
    cross = tuple(
        replace(entry, scope="cross", path=folder) if entry.path == LISTS else entry for entry in manifest.neighbors
    )
    files = {path.replace(f"{LISTS}/", f"{folder}/"): fact for path, fact in manifest.files.items()}
    tree = {path.replace(LISTS, folder): value for path, value in manifest.fingerprints.items()}
    digest = content_digest(files)
    save_manifest(broken, replace(manifest, neighbors=cross, files=files, fingerprints=tree, content_digest=digest))
    owners = np.repeat(np.arange(8), [end - start for start, end in _ranges(broken)])
    found = whats(broken)
    assert found
    assert all("candidates of the query's image or of the wrong split" in what for what in found)
    val = int(load_manifest(broken).corpus.splits["val"].start)
    first_of_val = int(np.flatnonzero(owners >= val)[0])

    def crossed(ids: np.ndarray, scores: np.ndarray, bound: np.ndarray) -> None:
        """Every row lists one caption, of the other split."""
        ids[:], scores[:], bound[:] = PAD_ROW, -np.inf, -np.inf
        ids[:, 0], scores[:, 0] = np.where(owners < val, first_of_val, 0), 0.5

    rewrite_list(broken, crossed, folder)
    assert whats(broken) == []


def _ranges(root: Path) -> list[tuple[int, int]]:
    from labelgen.store.disk.mapped import MappedArray

    borders = np.asarray(MappedArray(root, load_manifest(root).corpus.arrays()["offsets"])).tolist()
    return list(pairwise(borders))


def rewrite_table(root: Path, name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Change a table of the corpus with the production writer, and sign it."""
    path = root / "corpus" / name
    write_frame(path, change(read_frame(path)))
    reseal(root)


def _set(name: str, row: int, value: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[name].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(name, values, dtype=frame.schema[name]))

    return change


@pytest.mark.parametrize(
    ("table", "change", "expected"),
    [
        ("images.parquet", _set("image_row", 2, 3), "corpus/images.parquet rows 2 to 2: image_row is not the row"),
        ("images.parquet", _set("n_captions", 2, 77), "rows 2 to 2: n_captions differs from the index"),
        ("images.parquet", _set("image_id", 2, "other"), "the index does not find image ids at their rows"),
        (
            "images.parquet",
            lambda frame: frame[:-1],
            "images.parquet: does not have the 8 rows that the manifest counts",
        ),
        ("captions.parquet", _set("caption_row", 4, 5), "captions.parquet rows 4 to 4: caption_row is not the row"),
        ("captions.parquet", _set("image_row", 0, 7), "captions.parquet rows 0 to 0: image_row differs from the index"),
        ("captions.parquet", lambda frame: frame[:-1], "does not have the 24 rows that the manifest counts"),
        ("captions.parquet", lambda frame: pl.concat([frame, frame[:1]]), "does not have the 24 rows"),
        ("quarantine.parquet", lambda frame: frame[1:], "quarantine.parquet: has 2 entries, the manifest counts 3"),
        ("quarantine.parquet", _set("kind", 0, "photo"), "has an entry of the unknown kind 'photo'"),
    ],
)
def test_a_table_that_does_not_fit(
    broken: Path, table: str, change: Callable[[pl.DataFrame], pl.DataFrame], expected: str
) -> None:
    rewrite_table(broken, table, change)
    assert any(expected in what for what in whats(broken)), whats(broken)


def test_a_caption_outside_of_the_rows_of_its_image(broken: Path) -> None:
    """Tables and index agree that caption 0 belongs to image 7, whose captions are the last rows."""
    rewrite_table(broken, "captions.parquet", _set("image_row", 0, 7))
    rewrite(broken, "corpus/index/caption_image", lambda values: np.concatenate([[7], values[1:]]).astype(values.dtype))
    assert "corpus/index/caption_image rows 0 to 0: a caption is outside of its image's rows" in whats(broken)


def test_a_tie_in_the_wrong_order_and_an_id_twice(broken: Path) -> None:
    from labelgen.store.disk.mapped import MappedArray

    specs = layout.neighbor_specs(LISTS, 24, 4)
    scores = np.array(MappedArray(broken, specs["scores"]))
    ids = np.array(MappedArray(broken, specs["ids"]))
    row, column = next(
        (row, column) for row in range(24) for column in range(3) if scores[row, column] == scores[row, column + 1] > 0
    )
    ids[row, [column, column + 1]] = ids[row, [column + 1, column]]
    write_array(broken, specs["ids"], ids)
    reseal(broken)
    assert whats(broken) == [f"{LISTS} rows {row} to {row}: not sorted by score descending, then row ascending"]
    ids[row, column] = ids[row, column + 1]
    write_array(broken, specs["ids"], ids)
    reseal(broken)
    assert any("twice" in what for what in whats(broken))


def test_approximate_lists_have_no_bound(broken: Path) -> None:
    manifest = load_manifest(broken)
    approximate = tuple(replace(entry, approximate=entry.path == LISTS) for entry in manifest.neighbors)
    save_manifest(broken, replace(manifest, neighbors=approximate))
    assert whats(broken) == [f"{LISTS} rows 0 to 23: next does not bound the list"]
    rewrite(broken, f"{LISTS}/next", lambda values: np.full_like(values, np.nan))
    assert whats(broken) == []


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("caption_hash", lambda v: v[::-1], "not sorted"),
        ("caption_row", lambda v: np.roll(v, 1), "does not find caption ids at their rows"),
        ("image_hash", lambda v: v + np.uint64(1), "does not find image ids at their rows"),
        ("caption_image", lambda v: np.sort(v)[::-1].copy(), "image_row differs from the index"),
        ("offsets", lambda v: v + (v == 5), "n_captions differs from the index"),
    ],
)
def test_an_index_that_does_not_fit_the_tables(
    broken: Path, name: str, change: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    rewrite(broken, f"corpus/index/{name}", lambda values: np.ascontiguousarray(change(values)))
    assert any(words in what for what in whats(broken))


def test_a_corpus_that_does_not_fit_the_manifest(broken: Path) -> None:
    manifest = load_manifest(broken)
    corpus = replace(
        manifest.corpus, splits={"train": SplitRows([range(5)]), "val": SplitRows([range(5, 8)])}, n_texts=3
    )
    save_manifest(broken, replace(manifest, corpus=corpus))
    found = whats(broken)
    assert "corpus/images.parquet rows 5 to 5: split differs from the manifest" in found
    assert any("distinct texts, the manifest counts 3" in what for what in found)


def test_what_zarr_reads_otherwise(broken: Path) -> None:
    """A `zarr.json` with another byte order: signed, but not what the mapped file says."""
    path = broken / "embeddings/text/text/zarr.json"
    path.write_text(path.read_text().replace('"little"', '"big"', 1))
    reseal(broken)
    assert any("zarr reads other values" in what for what in whats(broken))
    path.write_text(path.read_text().replace("24", "23", 1))
    reseal(broken)
    assert any("zarr reads float16 [23, 16]" in what for what in whats(broken))
    path.write_text(path.read_text().replace("sharding_indexed", "sharding_guessed"))
    reseal(broken)
    assert any("zarr cannot open it" in what for what in whats(broken))


def test_many_runs_of_bad_rows_are_summed_up() -> None:
    found = ProblemList()
    for start in range(1000, 1100, 20):
        found.add_rows("file", "bad", np.arange(20) % 2 == 0, start)
    found.settle()
    assert len(found.problems) == 10
    assert str(found.problems[0]) == "file rows 1000 to 1000: bad"
    assert str(found.problems[9]) == "file rows 1018 to 1098: bad (41 rows)"


def test_a_run_over_several_pieces_is_one() -> None:
    found = ProblemList()
    found.add_rows("file", "bad", np.array([False, True, True]), 0)
    found.add_rows("file", "bad", np.array([True, False, True]), 3)
    found.settle()
    assert [problem.rows for problem in found.problems] == [(1, 4), (5, 6)]


def test_a_report_as_json(broken: Path) -> None:
    (broken / "README.md").unlink()
    report = json.loads(json.dumps(verify(broken).to_json()))
    assert report["ok"] is False
    assert report["problems"] == [{"file": "README.md", "what": "is missing", "rows": None}]
