"""Features from files: every format against the numbers that were written, and all that can be wrong with a file."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import ConfigError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.base import KeyedTeacher
from labelgen.testing.teachers import KeyedTeacherSuite
from labelgen.types import Float32

IDS = [f"COCO_val2014_{number:012d}.jpg" for number in range(12)]
ROWS = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
BY_ID = dict(zip(IDS, ROWS, strict=True))


def create(**arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("precomputed", **arguments), device="cpu")


def write_npy(folder: Path) -> dict[str, Any]:
    np.save(folder / "f.npy", ROWS)
    (folder / "ids.txt").write_text("\n".join(IDS) + "\n", encoding="utf-8")
    return {"path": str(folder / "f.npy"), "ids": str(folder / "ids.txt")}


def write_cusa(folder: Path) -> dict[str, Any]:
    """As CUSA's data loader reads it: numpy.load(..., allow_pickle=True).item()[image_id][0]."""
    np.save(folder / "f.npy", {key: row[None] for key, row in BY_ID.items()}, allow_pickle=True)
    return {"path": str(folder / "f.npy")}


def write_npz(folder: Path) -> dict[str, Any]:
    np.savez(folder / "f.npz", ids=np.array(IDS), features=ROWS)
    return {"path": str(folder / "f.npz")}


def write_npz_compressed(folder: Path) -> dict[str, Any]:
    np.savez_compressed(folder / "f.npz", ids=np.array(IDS), features=np.asfortranarray(ROWS))
    return {"path": str(folder / "f.npz")}


def write_npz_by_id(folder: Path) -> dict[str, Any]:
    np.savez(folder / "f.npz", **BY_ID)
    return {"path": str(folder / "f.npz")}


def write_safetensors(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import save_file

    save_file({"features": ROWS}, folder / "f.safetensors", metadata={"ids": json.dumps(IDS)})
    return {"path": str(folder / "f.safetensors")}


def write_safetensors_by_id(folder: Path) -> dict[str, Any]:
    from safetensors.numpy import save_file

    save_file(dict(BY_ID), folder / "f.safetensors")
    return {"path": str(folder / "f.safetensors")}


def write_parquet(folder: Path) -> dict[str, Any]:
    """Several row groups, a list column and a column of something else."""
    import pyarrow as pa
    from pyarrow.parquet import write_table

    table = pa.table({"image_id": IDS, "features": ROWS.tolist(), "file": IDS, "size": [0.5] * 12})
    write_table(table, folder / "f.parquet", row_group_size=5)
    return {"path": str(folder / "f.parquet")}


def write_parquet_fixed(folder: Path) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow.parquet import write_table

    column = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 6)
    write_table(pa.table({"key": pa.array(IDS), "vector": column}), folder / "f.parquet")
    return {"path": str(folder / "f.parquet")}


def write_pickle(folder: Path) -> dict[str, Any]:
    (folder / "f.pkl").write_bytes(pickle.dumps(BY_ID))
    return {"path": str(folder / "f.pkl")}


WRITERS = [
    write_npy,
    write_cusa,
    write_npz,
    write_npz_compressed,
    write_npz_by_id,
    write_safetensors,
    write_safetensors_by_id,
    write_parquet,
    write_parquet_fixed,
    write_pickle,
]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_numbers_that_were_written(
    write: Callable[[Path], dict[str, Any]], tmp_path: Path
) -> None:
    teacher = create(**write(tmp_path))
    order = [7, 0, 11, 7]
    rows, missing = teacher.lookup("image", [IDS[row] for row in order] + ["none"], range(5))
    expected = ROWS[order] / np.linalg.norm(ROWS[order].astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(rows[:4], expected, rtol=2e-7)
    assert (list(missing), teacher.dim, teacher.modalities) == ([4], 6, {"image"})


class _Keyed(KeyedTeacherSuite):
    tolerance = 1e-7
    write: Callable[[Path], dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.arguments = type(self).write(tmp_path_factory.mktemp("features"))

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("precomputed", **{**self.arguments, **changes})

    def features(self) -> Mapping[str, Float32]:
        return BY_ID


class TestCusaDict(_Keyed):
    write = staticmethod(write_cusa)

    def variants(self) -> Mapping[str, Spec]:
        path = Path(self.arguments["path"]).with_name("other.npy")
        np.save(path, {**BY_ID, IDS[0]: ROWS[1]}, allow_pickle=True)
        return {"file": self.spec(path=str(path)), "modality": self.spec(modality="text")}

    def test_is_a_keyed_teacher(self) -> None:
        assert isinstance(self.teacher(), KeyedTeacher)
        assert self.arguments["path"] not in str(self.teacher().identity())


class TestParquetRows(_Keyed):
    write = staticmethod(write_parquet)


class TestByRow(_Keyed):
    """An array without ids: row i belongs to corpus row i."""

    by_id = False

    @staticmethod
    def write(folder: Path) -> dict[str, Any]:
        np.save(folder / "f.npy", ROWS)
        return {"path": str(folder / "f.npy")}

    def test_fewer_rows_than_the_corpus(self) -> None:
        with pytest.raises(TeacherError, match=r"12 rows; corpus row 12 is needed"):
            self.teacher().lookup("image", ["a", "b"], [11, 12])


def test_both_modalities_share_a_space(tmp_path: Path) -> None:
    np.save(tmp_path / "i.npy", ROWS)
    np.save(tmp_path / "t.npy", -ROWS)
    teacher = create(image_path=str(tmp_path / "i.npy"), text_path=str(tmp_path / "t.npy"))
    assert teacher.modalities == {"text", "image"}
    images, texts = (teacher.lookup(side, ["x"], [3])[0] for side in ("image", "text"))
    np.testing.assert_array_equal(images, -texts)
    np.save(tmp_path / "t.npy", ROWS[:, :5])
    with pytest.raises(TeacherError, match="6 for images, 5 for texts"):
        create(image_path=str(tmp_path / "i.npy"), text_path=str(tmp_path / "t.npy"))


def test_captions(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", ids=np.arange(12), features=ROWS.astype(np.float64))
    teacher = create(path=str(tmp_path / "f.npz"), modality="text")
    rows, missing = teacher.lookup("text", ["4", "12"], [0, 1])
    np.testing.assert_allclose(rows[0], ROWS[4] / np.linalg.norm(ROWS[4]), rtol=1e-6)
    assert (list(missing), teacher.modalities) == ([1], {"text"})


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"features": torch.tensor(ROWS).bfloat16(), "ids": torch.arange(12)}, tmp_path / "f.safetensors")
    rows, _ = create(path=str(tmp_path / "f.safetensors")).lookup("image", ["5"], [0])
    rounded = torch.tensor(ROWS[5]).bfloat16().double().numpy()
    np.testing.assert_allclose(rows[0], rounded / np.linalg.norm(rounded), rtol=2e-7)


@pytest.mark.parametrize(
    ("keys", "written"),
    [("id", "7.jpg"), ("name", "pics/val/7.jpg"), ("name", "C:\\pics\\7.jpg"), ("stem", "pics/7.jpg.npy")],
)
def test_forms_of_keys(keys: str, written: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", {written: ROWS[0]}, allow_pickle=True)
    rows, missing = create(path=str(tmp_path / "f.npy"), keys=keys).lookup("image", ["7.jpg"], [0])
    assert not missing
    assert rows.any()


def test_grids_are_flattened_on_request_only(tmp_path: Path) -> None:
    """Rows of [3, 2]: numbers in C order, as numpy's own reshape gives them."""
    np.save(tmp_path / "f.npy", ROWS.reshape(12, 3, 2))
    with pytest.raises(TeacherError, match=r"shape \[3, 2\](.|\n)*flatten=True"):
        create(path=str(tmp_path / "f.npy"))
    rows, _ = create(path=str(tmp_path / "f.npy"), flatten=True).lookup("image", ["x"], [2])
    np.testing.assert_allclose(rows[0], ROWS[2] / np.linalg.norm(ROWS[2]), rtol=1e-6)


def test_vectors_and_single_rows_mean_the_same(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", {"a": ROWS[0], "b": ROWS[0][None], "c": ROWS[0][None, None]}, allow_pickle=True)
    rows, _ = create(path=str(tmp_path / "f.npy")).lookup("image", ["a", "b", "c"], range(3))
    assert (rows == rows[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bad": np.zeros(6, np.float32)}, r"rows of zeros(.|\n)*'bad'"),
        ({"bad": np.full(6, np.nan, np.float32)}, r"not finite(.|\n)*'bad'"),
        ({"bad": np.full(6, 1e300)}, r"not finite(.|\n)*'bad'"),
        ({"bad": np.ones(7, np.float32)}, r"different lengths(.|\n)*bad \(7\)(.|\n)*6 numbers"),
        ({"bad": np.ones((2, 3), np.float32)}, r"not one vector per id(.|\n)*for 'bad'"),
        ({"bad": np.array(["a", "b"])}, r"dtype '?U1"),
    ],
)
def test_bad_features_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", {"good": ROWS[0], **change}, allow_pickle=True)
    teacher = create(path=str(tmp_path / "f.npy"))
    with pytest.raises(TeacherError, match=message):
        teacher.lookup("image", ["good", "bad"], [0, 1])


def test_ids_that_do_not_match_show_both_sides(tmp_path: Path) -> None:
    teacher = create(**write_cusa(tmp_path))
    with pytest.raises(TeacherError, match=r"9 of 9 ids(.|\n)*the file has 'COCO_val2014_0(.|\n)*such as '0', '1'"):
        teacher.lookup("image", [str(n) for n in range(9)], range(9))
    rows, missing = teacher.lookup("image", ["x", "y"], range(2))  # the end of a corpus may be two such images
    assert list(missing) == [0, 1]
    assert not rows.any()


def test_ids_file_that_does_not_belong(tmp_path: Path) -> None:
    arguments = write_npy(tmp_path)
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(TeacherError, match="2 ids for 12 features"):
        create(**arguments)
    (tmp_path / "ids.txt").write_text("\n".join(["a", *IDS[1:11], "a"]))
    with pytest.raises(TeacherError, match=r"several features for one id(.|\n)*'a'"):
        create(**arguments)
    with pytest.raises(TeacherError, match="cannot read ids from"):
        create(path=arguments["path"], ids=str(tmp_path / "none.txt"))
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    assert create(path=arguments["path"], ids=str(tmp_path / "ids.json")).lookup("image", IDS, range(12))[1] == []


@pytest.mark.parametrize("name", ["none.npy", "f.mat", "folder.npz"])
def test_no_such_file_or_format(name: str, tmp_path: Path) -> None:
    (tmp_path / "f.mat").touch()
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(TeacherError, match="no features at"):
        create(path=str(tmp_path / name))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".pkl"])
@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not features at all, whatever the name says"])
def test_damaged_files(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"f{suffix}"
    path.write_bytes(content)
    with pytest.raises(TeacherError, match="cannot read"):
        create(path=str(path))


@pytest.mark.parametrize("write", WRITERS)
def test_truncated_files(write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    arguments = write(tmp_path)
    path = Path(arguments["path"])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TeacherError):
        create(**arguments).lookup("image", IDS, range(12))


def test_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    path = write_cusa(tmp_path)["path"]
    for arguments in ({}, {"path": path, "text_path": path}, {"image_path": path}, {"ids": path}):
        with pytest.raises(ConfigError, match="does not know where its features are"):
            create(**arguments)
    with pytest.raises(UnknownNameError, match="stem"):
        create(path=path, keys="stemm")
    with pytest.raises(UnknownNameError, match="image"):
        create(path=path, modality="picture")


def test_wide_rows_are_mapped(tmp_path: Path) -> None:
    """A task of 16 rows of 37,632 numbers out of 300 MB needs a few times its own 2.4 MB."""
    features = np.lib.format.open_memmap(tmp_path / "f.npy", "w+", np.float32, (2000, 49, 768))
    features[1000:1016, :, 0] = 1
    features[0] = 1
    features.flush()
    tracemalloc.start()
    try:
        teacher = create(path=str(tmp_path / "f.npy"), flatten=True)
        rows, _ = teacher.lookup("image", [str(row) for row in range(16)], range(1000, 1016))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(rows[:, 0], 1 / 7)  # 49 ones: a length of 7
    assert peak < 5 * rows.nbytes + (8 << 20)
