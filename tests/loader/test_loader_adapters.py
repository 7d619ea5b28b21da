"""Adapters with the real libraries: webdataset, Lightning, JAX, DDP with gloo."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader import AddSoftLabels, SoftLabelMixin, TensorLabels, gather_ids, soft_label_stage
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store
from labelgen.testing.schemes import Everything
from labelgen.testing.stores import make_store

IMAGES, CAPTIONS = ["img-0", "img-1", "img-7"], ["cap-1", "cap-5", "cap-39"]


def same(labels: SoftLabels, wanted: SoftLabels) -> bool:
    arrays, expected = labels.arrays(), wanted.arrays()
    return set(arrays) == set(expected) and all(np.array_equal(arrays[name], expected[name]) for name in expected)


@pytest.fixture(scope="module")
def wanted(even: Store) -> SoftLabels:
    return labelgen.soft_labels(even, IMAGES, CAPTIONS, scheme=Everything())


def test_whole_batches_of_any_shape(even: Store, wanted: SoftLabels) -> None:
    add = AddSoftLabels(even, scheme=Everything())
    assert same(add({"image_id": IMAGES, "caption_id": np.array(CAPTIONS)})["soft_labels"], wanted)
    by_place = AddSoftLabels(even, 1, 2, scheme=Everything(), key="labels")
    assert same(by_place((None, IMAGES, CAPTIONS))[-1], wanted)
    with pytest.raises(ConfigError, match="3 images and 2 captions are not pairs"):
        add({"image_id": IMAGES, "caption_id": CAPTIONS[:2]})
    with pytest.raises(ConfigError, match="1 of 3 samples hold a caption"):
        add({"image_id": IMAGES, "caption_id": ["cap-1", "cap-6", "cap-40"]})
    with pytest.raises(ConfigError, match="tensors=True and convert="):
        AddSoftLabels(even, tensors=True, convert=np.asarray)
    assert same(pickle.loads(pickle.dumps(add))({"image_id": IMAGES, "caption_id": CAPTIONS})["soft_labels"], wanted)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tar of six samples and a store whose ids are `webdataset`'s: `img-0`, and `img-0#0` would be its caption."""
    folder = tmp_path_factory.mktemp("wds")
    store = make_store(folder / "store", n_images=8, captions_per_image=1)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for number in range(6):
            for name, data in ((f"img-{number}.txt", b"words"), (f"img-{number}.cls", str(number).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder / "shard.tar", store


def captions_of(batch: Any) -> list[str]:
    return [key.replace("img", "cap") for key in batch[1]]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_webdataset_pipelines(keyed: tuple[Path, Path]) -> None:
    wds = pytest.importorskip("webdataset")
    store = labelgen.open(keyed[1])
    urls = str(keyed[0])
    add = AddSoftLabels(store, 1, captions_of, scheme=Everything())
    fluid = wds.WebDataset(urls, shardshuffle=False).decode().to_tuple("txt", "__key__").batched(3).map(add)
    stage = soft_label_stage(store, 1, captions_of, scheme=Everything())
    pipeline = wds.DataPipeline(
        wds.SimpleShardList(urls), wds.tarfile_to_samples(), wds.to_tuple("txt", "__key__"), wds.batched(3), stage
    )
    composed = wds.WebDataset(urls, shardshuffle=False).to_tuple("txt", "__key__").batched(3).compose(stage)
    numpy = list(fluid)
    for batches in (numpy, list(pipeline), list(composed)):
        assert [list(batch[1]) for batch in batches] == [["img-0", "img-1", "img-2"], ["img-3", "img-4", "img-5"]]
        for batch in batches:
            wanted = labelgen.soft_labels(store, batch[1], captions_of(batch), scheme=Everything())
            assert same(batch[-1], wanted)
            assert isinstance(batch[-1], TensorLabels) == (batches is not numpy)


def test_the_first_caption_of_a_key(even: Store) -> None:
    from labelgen.loader.frameworks.webdataset_stages import first_caption

    assert first_caption("__key__")({"__key__": ["a/b", b"c"]}) == ["a/b#0", "c#0"]
    stage = soft_label_stage(even, "__key__", scheme=Everything())
    assert stage.args[0].caption_key({"__key__": ["x"]}) == ["x#0"]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_lightning_trains_with_them(even: Store, wanted: SoftLabels, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip("lightning")
    seen = []

    class Model(SoftLabelMixin, lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.add_soft_labels = AddSoftLabels(even, scheme=Everything(), tensors=True)

        def training_step(self, batch: Any, _index: int) -> Any:
            seen.append(batch["soft_labels"])
            return (self.weight * batch["soft_labels"].i2t).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.5)

    samples = [{"image_id": image, "caption_id": caption} for image, caption in zip(IMAGES, CAPTIONS, strict=True)]
    model = Model()
    lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(model, torch.utils.data.DataLoader(samples, batch_size=3))  # fmt: skip
    assert len(seen) == 2
    assert all(same(labels.map(torch.Tensor.numpy), wanted) for labels in seen)
    np.testing.assert_allclose(model.weight.item(), 1 - 2 * 0.5 * float(wanted.i2t.mean()), rtol=1e-5)


def test_the_mixin_says_what_it_lacks() -> None:
    with pytest.raises(ConfigError, match="add_soft_labels"):
        SoftLabelMixin().on_before_batch_transfer({}, 0)


def test_jax_takes_them_through_jit_and_grad(wanted: SoftLabels) -> None:
    jax = pytest.importorskip("jax")
    from labelgen.loader import to_jax

    labels = to_jax(wanted)
    assert isinstance(labels.i2t, jax.Array)
    assert same(labels, wanted)

    @jax.jit
    def loss(scores: Any, labels: SoftLabels) -> Any:
        return (scores * labels.i2t).sum(where=~labels.same_image)

    scores = jax.numpy.ones((3, 3))
    np.testing.assert_allclose(loss(scores, labels), wanted.i2t[~wanted.same_image].sum(), rtol=1e-6)
    gradient = jax.grad(loss)(scores, labels)
    np.testing.assert_allclose(gradient, np.where(wanted.same_image, 0, wanted.i2t))
    assert same(jax.tree_util.tree_map(lambda array: array, labels), wanted)
    assert same(to_jax(wanted, jax.devices("cpu")[0]), wanted)


def test_ids_of_one_process() -> None:
    pytest.importorskip("torch")
    assert gather_ids(["a", 2, np.int64(3)]) == (["a", "2", "3"], 0, 3)


DDP = """
import sys
import numpy as np
import torch.distributed as dist
import labelgen
from labelgen.loader import SoftLabeler, gather_ids
from labelgen.testing.schemes import Everything

rank, path, meeting = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
labeller = SoftLabeler(labelgen.open(path), Everything())
first, second = (["img-0", "img-1"], ["cap-1", "cap-5"]), (["img-7", "img-9", "img-3"], ["cap-39", "cap-45", "cap-19"])
mine = (first, second)[rank]
images, captions = gather_ids(mine[0]), gather_ids(mine[1])
assert images.own == mine[0] and captions.own == mine[1], (images, captions)
assert images.all == ["img-0", "img-1", "img-7", "img-9", "img-3"], images
assert gather_ids(["\\u00e9\\u4e2d" * (rank + 1)]).all == ["\\u00e9\\u4e2d", "\\u00e9\\u4e2d" * 2]
assert gather_ids([]).all == []
whole, part = labeller(images.all, captions.all), labeller(images.own, captions.all)
assert whole.i2t.shape == (5, 5) and part.i2t.shape == (len(mine[0]), 5)
np.testing.assert_array_equal(part.i2t, whole.i2t[images.start : images.stop])
assert part.same_image[:, captions.start : captions.stop].diagonal().all()
dist.destroy_process_group()
"""


def test_two_processes_gather_ids(even_path: Path, tmp_path: Path) -> None:
    """A real gloo group: ranks of different sizes, ids that are not ASCII, an empty list."""
    pytest.importorskip("torch")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DDP, str(rank), str(even_path), str(tmp_path / "meeting")],
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        told = [process.communicate(timeout=90)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    assert [process.returncode for process in ranks] == [0, 0], told
