"""Labels on a device: the blocks of the store within the promised precision, on the CPU device and on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError, MissingItemError
from labelgen.loader import OnDevice, SoftLabeler
from labelgen.store.reader import Store
from labelgen.testing.schemes import Everything
from labelgen.testing.stores import make_store

torch = pytest.importorskip("torch")

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
PRECISION = {"float32": 1e-6, "float16": 1e-3}
#: Of the fixture `store`: image 2 has no captions, image 5 and caption 3 no rows.
PAIRS = ["img-0", "img-1", "img-3", "img-4", "img-6", "img-7"], ["cap-1", "cap-5", "cap-7", "cap-9", "cap-19", "cap-22"]
WITH_GAPS = ["img-0", "img-5", "img-2", "nobody"], ["cap-0", "cap-3", "cap-15", "cap-16"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize("aggregation", ["max", "mean", "max_other", "first"])
def test_blocks_are_those_of_the_store(store: Store, device: str, dtype: Any, aggregation: str) -> None:
    scheme = Everything(aggregation)
    for missing, ids in {"raise": PAIRS, "mask": WITH_GAPS}.items():
        found = OnDevice(store, scheme, device, dtype=dtype, missing=missing)(*ids)  # type: ignore[arg-type]
        expected = SoftLabeler(store, scheme, missing=missing, exact=True)(*ids)  # type: ignore[arg-type]
        for name, value in expected.arrays().items():
            tensor = getattr(found, name)
            assert tensor.device.type == device
            tolerance = PRECISION[dtype] if value.dtype == np.float32 else 0
            np.testing.assert_allclose(tensor.cpu().numpy(), value, atol=tolerance, rtol=0, err_msg=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scheme", ["cusa(mode='add')", "bcls(transform='softmax')"])
def test_schemes_and_wide_rows(tmp_path: Path, device: str, scheme: str) -> None:
    store = labelgen.open(make_store(tmp_path / "s", n_images=48, dims={"text": 384, "image": 1280}, lists=False))
    ids = store.image_ids(range(40)), store.caption_ids(range(0, 200, 5))
    found, expected = OnDevice(store, scheme, device)(*ids), SoftLabeler(store, scheme, exact=True)(*ids)
    for name, value in expected.arrays().items():
        np.testing.assert_allclose(getattr(found, name).cpu().numpy(), value, atol=1e-6, rtol=0, err_msg=name)


def test_a_teacher_of_images_and_texts(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "s", n_images=12, dims={"clip": 32}, lists=False))
    ids = store.image_ids(range(8)), store.caption_ids(range(0, 40, 5))
    found, expected = OnDevice(store, "bcls()", "cpu")(*ids), SoftLabeler(store, "bcls()")(*ids)
    np.testing.assert_allclose(found.i2t.numpy(), expected.i2t, atol=1e-6, rtol=0)


def test_items_without_an_embedding_are_named(store: Store) -> None:
    with pytest.raises(MissingItemError, match="cap-3"):
        OnDevice(store, "bcls()", "cpu")(["img-0"], ["cap-3"])


def test_the_callers_precision_and_autocast_change_nothing(store: Store) -> None:
    labeler = OnDevice(store, "bcls()", "cpu")
    expected = labeler(*PAIRS).relevance
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(labeler(*PAIRS).relevance, expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_rows_are_copied_once(store: Store) -> None:
    labeler = OnDevice(store, Everything(), "cpu")
    labeler(*PAIRS)
    readers = list(labeler.readers.values())
    labeler(*PAIRS)
    assert [id(reader) for reader in labeler.readers.values()] == [id(reader) for reader in readers]
    texts = {reader.captions.data_ptr() for reader in readers if reader.captions.shape[1] == 16}
    assert len(texts) == 1


@pytest.mark.parametrize("wrong", [{"device": "gpu"}, {"device": "cuda:99"}, {"device": "cpu", "dtype": "bfloat16"}])
def test_choices_are_checked(store: Store, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"torch cannot use the device|is unknown"):
        OnDevice(store, **wrong)
