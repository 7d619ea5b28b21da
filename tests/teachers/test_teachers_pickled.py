"""Pickled dicts of arrays are read, and nothing in a pickle is ever executed."""

from __future__ import annotations

import collections
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from labelgen.errors import TeacherError
from labelgen.teachers.precomputed.pickled import read_mapping

DTYPES = st.sampled_from(["<f4", ">f4", "<f8", "<f2", "<i8", ">i2", "u1", "?"])
ARRAYS = DTYPES.flatmap(lambda dtype: arrays(dtype, array_shapes(max_dims=3, max_side=4)))
MAPPINGS = st.dictionaries(st.text(max_size=300) | st.integers(-(2**70), 2**70), ARRAYS, max_size=8)


def read(data: bytes, path: Path) -> dict[str, Any]:
    path.write_bytes(data)
    return {key: stored.numpy() for key, stored in read_mapping(path).items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "f.pkl"


@given(MAPPINGS, st.integers(2, pickle.HIGHEST_PROTOCOL), st.booleans())
def test_equals_what_pickle_reads(file: Path, mapping: dict[Any, Any], protocol: int, fortran: bool) -> None:
    written = {key: np.asfortranarray(array) if fortran else array for key, array in mapping.items()}
    found = read(pickle.dumps(written, protocol), file)
    assert list(found) == list({str(key): None for key in mapping})
    if len(found) == len(mapping):  # else 1 and "1" were both there
        for key, array in mapping.items():
            np.testing.assert_array_equal(found[str(key)], array)
            assert found[str(key)].dtype == array.dtype


def test_array_bytes_are_not_copied(file: Path) -> None:
    file.write_bytes(pickle.dumps({"a": np.arange(6.0)}))
    array = read_mapping(file)["a"].numpy()
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_numpy_keys_and_ordered_dicts(file: Path) -> None:
    mapping = collections.OrderedDict({np.str_("x"): np.ones(2), np.int64(7): np.zeros(2)})
    assert list(read(pickle.dumps(mapping), file)) == ["x", "7"]


def test_names_of_older_and_newer_numpy(file: Path) -> None:
    data = pickle.dumps({"a": np.ones(2)}, 4)
    older = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    newer = data.replace(b"\x8c\x15numpy.core.multiarray", b"\x8c\x16numpy._core.multiarray")
    assert older != newer
    for form in (older, newer):
        start = form.index(b"\x95")  # the frame's length counts the longer name
        assert read(form[:start] + form[start + 9 :], file)["a"].tolist() == [1, 1]


def test_dict_of_python_2(file: Path) -> None:
    """As Python 2 wrote it with protocol 2: byte strings for keys, codes and data."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    dtype = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = b"U\x08" + np.array([1.5, 2], "<f4").tobytes()
    pickled = b"\x80\x02}U\x03k_1" + array + b"(K\x01K\x02\x85" + dtype + b"\x89" + data + b"tbs."
    assert {key: value.tolist() for key, value in pickle.loads(pickled, encoding="latin1").items()} == {"k_1": [1.5, 2]}
    assert read(pickled, file)["k_1"].tolist() == [1.5, 2]


class Executes:
    """Pickled as a call: loading it makes a folder."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("where", ["value", "key", "object array", "top"])
def test_code_is_refused_and_not_executed(protocol: int, where: str, tmp_path: Path) -> None:
    trap = Executes(os.mkdir, str(tmp_path / "executed"))
    payload = {
        "value": {"a": np.ones(2), "b": trap},
        "key": {trap: np.ones(2)},
        "object array": {"a": np.array([trap, 1], dtype=object)},
        "top": trap,
    }[where]
    with pytest.raises(TeacherError, match=r"(posix|nt|os)\.mkdir', which is refused(.|\n)*nothing of it was executed"):
        read(pickle.dumps(payload, protocol), tmp_path / "f.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (eval, r"builtins\.eval"),
        (getattr, r"builtins\.getattr"),
        (subprocess.Popen, r"subprocess\.Popen"),
        (np.load, r"numpy\.load"),
        (np.memmap, r"numpy\.memmap"),
        (np.fromfile, r"numpy.*fromfile"),
        (collections.Counter, r"collections\.Counter"),
    ],
)
def test_other_names_are_refused(function: Any, name: str, file: Path) -> None:
    with pytest.raises(TeacherError, match=f"uses '{name}', which is refused"):
        read(pickle.dumps({"a": Executes(function, "1")}), file)


def test_torch_tensors_are_refused_by_name(file: Path) -> None:
    import torch

    with pytest.raises(TeacherError, match=r"torch\._utils\._rebuild_tensor_v2(.|\n)*numpy\.savez"):
        read(pickle.dumps({"a": torch.ones(2)}), file)


@pytest.mark.parametrize(
    "data",
    [
        b"(cos\nsystem\nS'true'\no.",  # OBJ
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1: a registered extension
        b"\x80\x04P1\n.",  # PERSID
        b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",  # a call of numpy.ndarray itself
        b"\x80\x02ccollections\nOrderedDict\n)R}b.",  # a state for a dict
        b"\x80\x02K\x01R.",
        b"\x80\x02tR.",
        b"\x80\x02h\x05.",
        b"\x80\x02.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x03}X\x01\x00\x00\x00aK\x01s.",  # {"a": 1}
        b"\x80\x03]q\x00.",  # a list
    ],
)
def test_anything_else_is_refused(data: bytes, file: Path) -> None:
    with pytest.raises(TeacherError, match=r"refused|cannot read"):
        read(data, file)


@pytest.mark.parametrize(("shape", "code"), [((3,), "f4"), ((2,), "f8"), ((-2,), "f4"), ((2,), "O8"), ((2,), "f4,O")])
def test_arrays_that_lie_about_themselves(shape: tuple[int, ...], code: str, file: Path) -> None:
    from labelgen.teachers.precomputed.pickled_arrays import DType, StoredArray

    with pytest.raises(ValueError, match="an array of"):
        StoredArray(shape, DType(code, "<"), False, bytes(8)).numpy()


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pickles_give_arrays_or_our_error(file: Path, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps({"ab": np.arange(5.0), "cd": np.arange(4)}, data.draw(st.sampled_from([2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(whole[: data.draw(st.integers(1, len(whole)))]))
    try:
        stored = read_mapping(file)
    except TeacherError:
        return
    for array in stored.values():
        try:
            array.numpy()
        except ValueError:
            continue
