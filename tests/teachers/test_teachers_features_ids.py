"""Features are joined by id or refused: every kind of file and of id; damaged and hostile files are named errors."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow.parquet import write_table

from labelgen import pipeline, registry
from labelgen.errors import ConfigError, TeacherError
from labelgen.specs import Spec

N = 12
ROWS = np.random.default_rng(5).normal(size=(N, 6)).astype(np.float32)
IDS = [f"i{number}" for number in range(N)]
ORDER = list(reversed(range(N)))  # the order of the file is not that of the corpus


def create(path: Path, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("precomputed", path=str(path), **arguments), device="cpu")


def expected() -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    return made


def check_joined(path: Path, ids: list[str], **arguments: Any) -> None:
    """Rows by id, whatever the order of the file."""
    rows, missing = create(path, **arguments).lookup(arguments.get("modality", "image"), ids, range(len(ids)))
    assert list(missing) == []
    np.testing.assert_allclose(rows, expected(), atol=1e-6)


def parquet(path: Path, **columns: Any) -> Path:
    write_table(pa.table({**columns, "features": ROWS[ORDER].tolist()}), path)
    return path


NUMBERS = [str(number + 3) for number in range(N)]
COLUMNS: dict[str, tuple[Any, list[str]]] = {
    "int64": (pa.array([int(NUMBERS[row]) for row in ORDER], pa.int64()), NUMBERS),
    "uint32": (pa.array([int(NUMBERS[row]) for row in ORDER], pa.uint32()), NUMBERS),
    "int8": (pa.array([int(NUMBERS[row]) for row in ORDER], pa.int8()), NUMBERS),
    "string": (pa.array([IDS[row] for row in ORDER]), IDS),
    "large_string": (pa.array([IDS[row] for row in ORDER], pa.large_string()), IDS),
    "categories": (pa.array([IDS[row] for row in ORDER]).dictionary_encode(), IDS),
    "categories of numbers": (pa.array([int(NUMBERS[row]) for row in ORDER]).dictionary_encode(), NUMBERS),
    "binary": (pa.array([IDS[row].encode() for row in ORDER], pa.binary()), IDS),
    "large_binary": (pa.array([IDS[row].encode() for row in ORDER], pa.large_binary()), IDS),
}


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.parametrize("name", ["image_id", "imageId", "id", "ID", "key", "cocoid"])
def test_columns_that_are_ids_by_name_are_used(kind: str, name: str, tmp_path: Path) -> None:
    column, ids = COLUMNS[kind]
    other = {"size": pa.array([0.5] * N), "rank": pa.array(range(N))}
    check_joined(parquet(tmp_path / "f.parquet", **{name: column}, **other), ids)


WRONG: dict[str, Any] = {
    "float": pa.array([float(row) for row in ORDER]),
    "half": pa.array(np.arange(N, dtype=np.float16)),
    "bool": pa.array([row % 2 == 0 for row in ORDER]),
    "date": pa.array(range(N), pa.timestamp("s")),
    "decimal": pa.array(range(N), pa.decimal128(10, 2)),
    "struct": pa.array([{"a": row} for row in ORDER]),
    "null": pa.nulls(N),
    "missing": pa.array([None, *IDS[1:]]),
    "missing number": pa.array([None, *range(1, N)], pa.int64()),
    "empty": pa.array(["", *IDS[1:]]),
    "twice": pa.array([IDS[1], *IDS[1:]]),
    "not text": pa.array([b"\xff", *(name.encode() for name in IDS[1:])], pa.binary()),
}


@pytest.mark.parametrize("kind", WRONG)
def test_columns_that_are_ids_by_name_and_hold_none_are_refused(kind: str, tmp_path: Path) -> None:
    """They were passed over, and row i of the file went to row i of the corpus."""
    with pytest.raises(TeacherError) as caught:
        create(parquet(tmp_path / "f.parquet", image_id=WRONG[kind]))
    assert len(str(caught.value)) < 1000


def test_ids_of_the_other_modality_are_no_ids(tmp_path: Path) -> None:
    """A caption has an id of its own and that of its image."""
    captions = pa.array([IDS[row] for row in ORDER])
    both = parquet(tmp_path / "both.parquet", image_id=pa.array([f"p{row}" for row in ORDER]), caption_id=captions)
    check_joined(both, IDS, modality="text")
    check_joined(both, [f"p{row}" for row in range(N)], modality="image")
    alone = parquet(tmp_path / "alone.parquet", image_id=captions)
    with pytest.raises(TeacherError, match=r"ids of images \('image_id'\), and features of texts"):
        create(alone, modality="text")
    np.savez(tmp_path / "f.npz", caption_ids=np.array(IDS), features=ROWS)
    with pytest.raises(TeacherError, match="ids of captions"):
        create(tmp_path / "f.npz", modality="image")


def test_two_columns_of_different_ids_are_refused(tmp_path: Path) -> None:
    ids, numbers = pa.array([IDS[row] for row in ORDER]), pa.array(range(N))
    with pytest.raises(TeacherError, match=r"2 columns that could be ids: .id., .image_id."):
        create(parquet(tmp_path / "f.parquet", id=numbers, image_id=ids))
    check_joined(parquet(tmp_path / "g.parquet", id=ids, image_id=ids), IDS)


@pytest.mark.parametrize("name", ["ids", "image_ids", "keys", "id", "names", "filenames"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_that_are_ids_by_name(name: str, save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "f.npz", **{name: np.array([IDS[row] for row in ORDER]), "features": ROWS[ORDER], "rank": ORDER})
    check_joined(tmp_path / "f.npz", IDS)


BAD_IDS: dict[str, Any] = {
    "float": np.arange(N, dtype=np.float64),
    "bool": np.arange(N) % 2 == 0,
    "objects": np.array([object() for _ in range(2)]),
    "two columns": np.array([IDS, IDS]),
    "too few": np.array(IDS[:-1]),
    "too many": np.array([*IDS, "more"]),
    "twice": np.array([*IDS[:-1], IDS[0]]),
    "empty": np.array([*IDS[:-1], ""]),
    "dates": np.arange(N).astype("datetime64[s]"),
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_arrays_of_ids_that_hold_none_are_refused(kind: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", image_ids=BAD_IDS[kind], features=ROWS)
    with pytest.raises(TeacherError):
        create(tmp_path / "f.npz")


@pytest.mark.parametrize("kind", [name for name in BAD_IDS if name != "objects"])
def test_files_of_ids_that_hold_none_are_refused(kind: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", ROWS)
    np.save(tmp_path / "ids.npy", BAD_IDS[kind])
    with pytest.raises(TeacherError):
        create(tmp_path / "f.npy", ids=str(tmp_path / "ids.npy"))


@pytest.mark.parametrize("names", [("ids", "embeddings"), ("image_ids", "x", "y"), ("id", "vectors")])
def test_features_under_another_name_are_not_features_of_two_items(names: tuple[str, ...], tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = dict.fromkeys(names[1:], ROWS)
    np.savez(tmp_path / "f.npz", **{names[0]: np.arange(N)}, **arrays)
    save_file({names[0]: np.arange(N), **{name: ROWS.copy() for name in arrays}}, tmp_path / "f.safetensors")
    for file in ("f.npz", "f.safetensors"):
        with pytest.raises(TeacherError, match="expected `ids` and `features`"):
            create(tmp_path / file)


@pytest.mark.parametrize("place", ["metadata", "tensor"])
@pytest.mark.parametrize("name", ["ids", "image_ids", "keys"])
def test_safetensors_by_id(place: str, name: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors, path = {"features": ROWS[ORDER]}, tmp_path / "f.safetensors"
    if place == "metadata":
        save_file(tensors, path, {name: json.dumps([IDS[row] for row in ORDER])})
        check_joined(path, IDS)
    else:
        save_file({**tensors, name: np.array([int(NUMBERS[row]) for row in ORDER])}, path)
        check_joined(path, NUMBERS)


@pytest.mark.parametrize("ids", ['["a"]', "[1.5]", "{}", "[[", "7", "[" * 100_000, json.dumps([*IDS[:-1], None])])
def test_metadata_that_is_no_list_of_ids(ids: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"features": ROWS}, tmp_path / "f.safetensors", {"ids": ids})
    with pytest.raises(TeacherError):
        create(tmp_path / "f.safetensors")


def test_number_and_text_of_one_id_in_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "f.pkl").write_bytes(pickle.dumps({7: ROWS[0], "7": ROWS[1]}))
    with pytest.raises(TeacherError, match="several values for the id '7'"):
        create(tmp_path / "f.pkl")


def test_text_files_of_ids(tmp_path: Path) -> None:
    """A byte order mark and line ends of other systems are no part of an id."""
    np.save(tmp_path / "f.npy", ROWS)
    for text in ("\ufeff" + "\n".join(IDS), "\r\n".join(IDS) + "\r\n", "\n".join(IDS)):
        (tmp_path / "ids.txt").write_bytes(text.encode())
        rows, missing = create(tmp_path / "f.npy", ids=str(tmp_path / "ids.txt")).lookup("image", IDS, range(N))
        assert not missing
        np.testing.assert_allclose(rows, expected(), atol=1e-6)


@pytest.mark.parametrize("text", ["[" * 200_000, '["a", 1.5]', '["a", true]', '{"a": 1}', '["a", null]', "7", '"ab"'])
def test_json_that_is_no_list_of_ids(text: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", ROWS[:2])
    (tmp_path / "ids.json").write_text(text)
    with pytest.raises(TeacherError, match="cannot read ids"):
        create(tmp_path / "f.npy", ids=str(tmp_path / "ids.json"))


def test_pipes_are_no_files(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", ROWS)
    for name in ("ids.txt", "g.npy"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(TeacherError, match="no such file"):
        create(tmp_path / "f.npy", ids=str(tmp_path / "ids.txt"))
    with pytest.raises(TeacherError, match="no features at"):
        create(tmp_path / "g.npy")


@pytest.mark.parametrize(("written", "asked"), [("{}", "{:012}"), ("café{}", "cafe\u0301{}"), ("I{}", "i{}")])
def test_ids_that_are_nearly_the_same_are_said(written: str, asked: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", ids=np.array([written.format(n + 1) for n in range(N)]), features=ROWS)
    with pytest.raises(TeacherError, match="there is not"):
        create(tmp_path / "f.npz").lookup("image", [asked.format(n + 1) for n in range(N)], range(N))


def table(folder: Path, images: int) -> Path:
    folder.mkdir()
    rows = [{"image_id": f"i{n}", "caption_id": f"c{n}", "caption": f"text {n}", "split": "all"} for n in range(images)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.mark.parametrize(("rows", "fits"), [(N, True), (N + 1, False), (N - 1, False), (2 * N, False)])
def test_features_by_row_must_be_as_many_as_the_corpus(rows: int, fits: bool, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.random.default_rng(0).normal(size=(rows, 6)).astype(np.float32))
    spec, root = f"precomputed(path={str(tmp_path / 'f.npy')!r})", table(tmp_path / "data", N)
    config = pipeline.resolve(
        dataset="table", overrides=[f'dataset.root="{root}"', f"teachers.image={spec}", "search.k=3"]
    )
    if fits:
        assert pipeline.build(config, tmp_path / "store").images == N
        return
    for run in (lambda: pipeline.build(config, tmp_path / "store"), lambda: pipeline.plan(config)):
        with pytest.raises(TeacherError, match=rf"{rows} rows of features, {N} images in the corpus"):
            run()


def npy(shape: str, descr: str = "'<f4'", data: bytes = b"\0" * 24) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (64 - (len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


HOSTILE: Mapping[str, tuple[str, bytes]] = {
    "huge": ("f.npy", npy("(10000000000000, 512)")),
    "overflowing": ("f.npy", npy("(4611686018427387904, 4611686018427387904)")),
    "negative": ("f.npy", npy("(-1, 6)")),
    "scalar": ("f.npy", npy("()")),
    "text shape": ("f.npy", npy("'ab'")),
    "nested header": ("f.npy", npy("(" * 2000 + ")" * 2000)),
    "records": ("f.npy", npy("(1,)", "[('id', '<U3'), ('v', '<f4', (3,))]")),
    "code in the header": ("f.npy", npy("__import__('os').getpid()")),
    "objects": ("f.npy", npy("(1,)", "'|O'", pickle.dumps([print]))),
    "no array": ("f.safetensors", struct.pack("<Q", 2) + b"[]"),
    "nesting": ("f.safetensors", struct.pack("<Q", 100_000) + b"[" * 100_000),
    "long header": ("f.safetensors", struct.pack("<Q", 1 << 62) + b"{}"),
    "no entries": ("f.safetensors", struct.pack("<Q", 14) + b'{"features":1}'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(kind: str, tmp_path: Path) -> None:
    name, data = HOSTILE[kind]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TeacherError) as caught:
        create(tmp_path / name)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize("entry", ['"shape":[-1,6]', '"shape":[1,7]', '"shape":[2e0,3]', '"shape":{}', '"shape":[]'])
def test_tensors_that_are_not_what_they_say(entry: str, tmp_path: Path) -> None:
    header = f'{{"features":{{"dtype":"F32",{entry},"data_offsets":[0,24]}}}}'.encode()
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(TeacherError):
        create(tmp_path / "f.safetensors")


def test_tensor_named_twice(tmp_path: Path) -> None:
    one = '"features":{"dtype":"F32","shape":[1,6],"data_offsets":[0,24]}'
    header = f"{{{one},{one}}}".encode()
    (tmp_path / "f.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    with pytest.raises(TeacherError, match="appears twice"):
        create(tmp_path / "f.safetensors")


def bounded(run: Callable[[], Any], limit: int = 200 << 20) -> None:
    """A named error within bounded memory of Python and numpy."""
    tracemalloc.start()
    try:
        with pytest.raises(TeacherError):
            run()
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["features", "i0"])
def test_archives_that_unpack_into_the_memory(name: str, tmp_path: Path) -> None:
    """300 MB of zeros in 300 kB."""
    path = tmp_path / "f.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(f"{name}.npy", "w") as file:
        file.write(npy("(12, 6553600)", data=b""))
        for _ in range(300):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    bounded(lambda: create(path))


def test_members_that_declare_more_than_they_hold(tmp_path: Path) -> None:
    for mode in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "f.npz", "w", mode) as archive:
            archive.writestr("features.npy", npy("(100000000, 512)"))
        bounded(lambda: create(tmp_path / "f.npz"), 20 << 20)


def test_members_of_one_name(tmp_path: Path) -> None:
    buffer = BytesIO()
    np.save(buffer, ROWS)
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("features.npy", buffer.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("features.npy", buffer.getvalue())
    with pytest.raises(TeacherError, match="two arrays of one name"):
        create(tmp_path / "f.npz")


def test_parquet_rows_that_unpack_into_the_memory(tmp_path: Path) -> None:
    """Runs of one number are a few bytes on disk."""
    values = pa.array(np.zeros(60_000_000, np.float32))
    column = pa.ListArray.from_arrays(pa.array([0, 60_000_000], pa.int32()), values)
    write_table(pa.table({"id": ["i0"], "features": column}), tmp_path / "f.parquet", compression="zstd")
    del values, column
    bounded(lambda: create(tmp_path / "f.parquet"), 20 << 20)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_messages_about_pickles_are_short(protocol: int, tmp_path: Path) -> None:
    for value in ({"x" * 10**6: "y"}, {10**4000: ROWS[0]}, {"a": {"b" * 10**6: 1}}, ["c" * 10**6]):
        (tmp_path / "f.pkl").write_bytes(pickle.dumps(value, protocol))
        with pytest.raises(TeacherError) as caught:
            create(tmp_path / "f.pkl")
        assert len(str(caught.value)) < 1500


def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(mark),))

    (tmp_path / "f.pkl").write_bytes(pickle.dumps({"a": Evil()}))
    np.save(tmp_path / "f.npy", np.array({"a": Evil()}, dtype=object), allow_pickle=True)
    for name in ("f.pkl", "f.npy"):
        with pytest.raises(TeacherError, match="mkdir"):
            create(tmp_path / name)
    assert not mark.exists()


def test_identity_is_the_content_and_no_time(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    np.savez(path, ids=np.array(IDS), features=ROWS)
    before = create(path).identity()
    os.utime(path, (1, 1))
    copy = tmp_path / "other.npz"
    copy.write_bytes(path.read_bytes())
    assert create(path).identity() == create(copy).identity() == before
    changed = ROWS.copy()
    changed[3, 2] = np.nextafter(changed[3, 2], np.float32(9))
    stat = path.stat()
    np.savez(path, ids=np.array(IDS), features=changed)
    os.utime(path, (stat.st_atime, stat.st_mtime))
    assert path.stat().st_size == stat.st_size
    assert create(path).identity() != before


@pytest.mark.parametrize(
    "arguments", [{"path": 5}, {"path": ["a"]}, {"path": "a\0.npy"}, {"keys": [1]}, {"modality": 3}, {"flatten": "yes"}]
)
def test_arguments_of_other_types(arguments: dict[str, Any], tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", ROWS)
    with pytest.raises((ConfigError, TeacherError)):
        registry.create(
            "teacher", Spec.of("precomputed", **{"path": str(tmp_path / "f.npy"), **arguments}), device="cpu"
        )


def test_long_names_of_files_are_cut(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="no features at") as caught:
        create(tmp_path / ("x" * 100_000 + ".npy"))
    assert len(str(caught.value)) < 1000
