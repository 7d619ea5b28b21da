"""accelerate: labels survive its operations on tensors, and two processes train with their own batches."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import labelgen
from labelgen.errors import ArrayError
from labelgen.loader import TensorLabels, to_tensors
from labelgen.losses import csa, language_margin
from labelgen.relevance.base import SoftLabels
from labelgen.store.reader import Store

torch = pytest.importorskip("torch")
operations = pytest.importorskip("accelerate.utils.operations")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


def batch_of(store: Store, start: int, n: int = 4, scheme: str = "cusa(mode='each')") -> SoftLabels:
    images = store.image_ids(range(start, start + n))
    captions = store.caption_ids([int(store.offsets[row]) for row in range(start, start + n)])
    return labelgen.soft_labels(store, images, captions, scheme=scheme)


def test_operations_on_batches(store: Store) -> None:
    plain = batch_of(store, 0), batch_of(store, 4)
    one, other = map(to_tensors, plain)
    assert isinstance(one, SoftLabels)
    assert dict(one).keys() == plain[0].arrays().keys()
    moved = operations.send_to_device({"x": torch.ones(4), "soft_labels": one}, "meta")["soft_labels"]
    assert (type(moved), moved.relevance.device.type) == (TensorLabels, "meta")
    joined = operations.concatenate([one, other])
    assert joined.relevance.shape == (8, 4)
    assert (operations.find_batch_size(joined), operations.find_device(one).type) == (8, "cpu")
    parts = [operations.slice_tensors(joined, slice(start, start + 4)) for start in (0, 4)]
    for part, wanted in zip(parts, plain, strict=True):
        assert type(part) is TensorLabels
        for name, array in wanted.arrays().items():
            assert torch.equal(part[name], torch.from_numpy(array)), name
            assert torch.equal(getattr(part, name), torch.from_numpy(array)), name
    structure = operations.get_data_structure(one)
    assert structure.relevance.shape == (4, 4)
    empty = operations.initialize_tensors(structure)
    assert (type(empty), empty.same_image.dtype, empty.weights) == (TensorLabels, torch.bool, None)
    assert operations.gather(one).relevance.shape == (4, 4), "of one process"
    padded = operations.pad_across_processes(one)
    assert type(padded) is TensorLabels
    half = operations.convert_to_fp32(one.map(lambda tensor: tensor.half() if tensor.is_floating_point() else tensor))
    assert half.t2t.dtype == torch.float32


def test_a_threshold_is_a_number_again(store: Store) -> None:
    """It is cut as the other tensors are, and works in its loss."""
    scheme = "language_margin(percentile=50)"
    plain = batch_of(store, 0, scheme=scheme), batch_of(store, 4, scheme=scheme)
    first, second = map(to_tensors, plain)
    assert first.threshold == pytest.approx(plain[0].threshold, rel=1e-7)
    back = operations.slice_tensors(operations.concatenate([first, second]), slice(4, 8))
    assert back.threshold == first.threshold == dataclasses.replace(first, weights=None).threshold
    assert back.to("cpu").map(torch.clone).threshold == first.threshold
    scores = torch.rand(4, 4)
    labels = {"relevance": plain[1].relevance, "threshold": plain[1].threshold}
    torch.testing.assert_close(
        language_margin(scores, back.relevance, threshold=back.threshold), language_margin(scores, **labels)
    )
    assert to_tensors(batch_of(store, 0)).threshold is None


def test_pinned_and_pickled(store: Store) -> None:
    """As workers and pin_memory of a DataLoader treat them."""
    labels = to_tensors(batch_of(store, 0))
    doubled = dataclasses.replace(labels, relevance=2 * labels.relevance)
    assert torch.equal(doubled["relevance"], 2 * labels["relevance"])
    assert torch.equal(copy.deepcopy(labels).i2i, labels.i2i)
    again = pickle.loads(pickle.dumps(labels))
    assert type(again) is TensorLabels
    assert torch.equal(again.relevance, labels["relevance"])
    with pytest.raises(KeyError):
        labels["weights"]
    joined = operations.concatenate([labels, labels])
    with pytest.raises(ArrayError):  # rows of two batches, scores of one
        csa(torch.rand(8, 8), joined.relevance)


SCRIPT = """
import sys
import torch
from accelerate import Accelerator, DataLoaderConfiguration
import labelgen
from labelgen.loader import SoftLabelCollate, TensorLabels
from labelgen.losses import csa

store = labelgen.open(sys.argv[1])
torch.set_num_threads(1)
SCHEME = "cusa(mode='each')"

class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 32
    def __getitem__(self, at):
        caption = int(store.offsets[at])
        x = torch.randn(12, generator=torch.Generator().manual_seed(at))
        return {"image_id": store.image_ids([at])[0], "caption_id": store.caption_ids([caption])[0], "at": at, "x": x}

def wanted(rows):
    captions = [int(store.offsets[row]) for row in rows]
    return labelgen.soft_labels(store, store.image_ids(rows), store.caption_ids(captions), scheme=SCHEME)

class Towers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.images, self.texts = torch.nn.Linear(12, 6), torch.nn.Linear(12, 6)
    def forward(self, x):
        images, texts = self.images(x), self.texts(x)
        return torch.nn.functional.normalize(images, dim=-1) @ torch.nn.functional.normalize(texts, dim=-1).T

for dispatch in (False, True):
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(dispatch_batches=dispatch))
    assert accelerator.num_processes == 2
    loader = torch.utils.data.DataLoader(
        Samples(), batch_size=8, shuffle=True, drop_last=True,
        collate_fn=SoftLabelCollate(store, scheme=SCHEME, keep_ids=False))
    model = Towers()
    model, optimizer, loader = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.03), loader)
    passed, seen = [], set()
    for epoch in range(8):
        for batch in loader:
            rows, soft = batch["at"].tolist(), batch["soft_labels"]
            assert len(rows) == 8 and type(soft) is TensorLabels, (rows, soft)
            by_hand = wanted(rows)
            for name, array in by_hand.arrays().items():
                assert torch.equal(soft[name], torch.from_numpy(array)), (dispatch, name)
            everyone = accelerator.gather({"at": batch["at"], "soft": soft})
            assert type(everyone["soft"]) is TensorLabels and everyone["soft"].relevance.shape == (16, 8)
            for start in (0, 8):
                there = wanted(everyone["at"][start : start + 8].tolist())
                assert torch.equal(everyone["soft"].relevance[start : start + 8], torch.from_numpy(there.relevance))
            assert accelerator.gather_for_metrics(soft).i2i.shape == (16, 8)
            scores = model(batch["x"])
            loss = csa(scores, soft.relevance, relevance_t2i=soft.relevance_t2i, relevance_temperature=0.1)
            hand = 0
            for matrix, target in ((scores, by_hand.relevance), (scores.T, by_hand.relevance_t2i)):
                truth = (torch.from_numpy(target) / 0.1).softmax(1)
                hand += (truth * (truth.log() - (matrix / 0.45).log_softmax(1))).sum(1).mean() / 2
            torch.testing.assert_close(loss, hand)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            passed.append(loss.item())
            seen |= set(rows)
    assert torch.tensor(passed).isfinite().all() and len(passed) == 16, passed
    assert sum(passed[-4:]) < sum(passed[:4]), passed

config = DataLoaderConfiguration(dispatch_batches=True, split_batches=True)
accelerator = Accelerator(cpu=True, dataloader_config=config)
collate = SoftLabelCollate(store, scheme=SCHEME, keep_ids=False)
loader = torch.utils.data.DataLoader(Samples(), batch_size=8, collate_fn=collate)
batch = next(iter(accelerator.prepare(loader)))
assert batch["soft_labels"].relevance.shape == (4, 8), "own images with the captions of both ranks"
print("done")
"""


def test_two_processes(demo_store: Path, two_processes: Callable[..., list[str]]) -> None:
    """Own batches of each process, and batches that the first one makes and dispatches."""
    assert [printed.splitlines()[-1] for printed in two_processes(SCRIPT, demo_store)] == ["done"] * 2
