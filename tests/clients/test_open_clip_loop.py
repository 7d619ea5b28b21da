"""open_clip_train's `train_one_epoch`, `get_data` and `create_loss`, unmodified, with soft labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labelgen.store.reader import Store

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip_train.train")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own

HERE = Path(__file__).resolve().parent


@pytest.fixture
def clip(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(HERE)
    import open_clip_training

    return open_clip_training


def order_of(seed: int) -> list[int]:
    """The order of a shuffling DataLoader of 32 samples without a generator of its own."""
    torch.manual_seed(seed)
    loader = torch.utils.data.DataLoader(range(32), batch_size=8, shuffle=True)
    return torch.cat(list(loader)).tolist()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_one_process(clip: Any, store: Store, pairs_csv: Path, accumulated: int) -> None:
    """Losses by hand, the gradient of a step too; then some epochs, in which both losses fall."""
    args = clip.arguments(pairs_csv, accum_freq=accumulated)
    first = order_of(0)[: 8 * accumulated]
    model = clip.new_model()
    before = copy.deepcopy(model)
    loss = clip.train(store, args, model)
    wanted = clip.by_hand(store, pairs_csv, first, before)
    assert len(loss.seen) == 4
    for seen in loss.seen[:accumulated]:
        assert seen == pytest.approx({name: wanted[name].item() for name in seen}, rel=1e-4)
    after = clip.stepped(before, wanted, accumulated)
    second = clip.by_hand(store, pairs_csv, order_of(0)[8 * accumulated : 16 * accumulated], after)
    assert loss.seen[accumulated] == pytest.approx({name: second[name].item() for name in seen}, rel=1e-4)
    passed = clip.train(store, args, model, epochs=6).seen
    for name in ("contrastive_loss", "soft_loss"):
        values = [seen[name] for seen in passed]
        assert torch.tensor(values).isfinite().all()
        assert sum(values[-4:]) < sum(values[:4])


SCRIPT = """
import copy, os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
import open_clip_training as clip
import labelgen
from labelgen.errors import ConfigError
from labelgen.losses.modules import Bcls

store, csv, rank = labelgen.open(sys.argv[2]), Path(sys.argv[3]), int(os.environ["RANK"])
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo")

def order(epoch):
    sampler = [torch.utils.data.DistributedSampler(range(32), num_replicas=2, rank=r) for r in range(2)]
    for one in sampler:
        one.set_epoch(epoch)
    return [list(one) for one in sampler]

def close(seen, wanted, *names):
    for name in names:
        torch.testing.assert_close(seen[name], wanted[name].item(), rtol=1e-4, atol=1e-5)

ranks, names = order(0), ("contrastive_loss", "soft_loss")

def arguments(accumulated, local, grad, **others):
    return clip.arguments(csv, distributed=True, rank=rank, world_size=2, batch_size=4, accum_freq=accumulated,
                          local_loss=local, gather_with_grad=grad, **others)

def wrapped(model):
    return torch.nn.parallel.DistributedDataParallel(model)

for accumulated, local, grad in ((1, False, False), (2, False, True), (1, True, True), (2, True, True)):
    args = arguments(accumulated, local, grad)
    model = clip.new_model()
    before = copy.deepcopy(model)
    trained = wrapped(model)
    loss = clip.train(store, args, trained)
    assert len(loss.seen) == 4, loss.seen
    n = 4 * accumulated
    own = slice(rank * n, (rank + 1) * n) if local else None
    wanted = clip.by_hand(store, csv, ranks[0][:n] + ranks[1][:n], before, own)
    for seen in loss.seen[:accumulated]:
        close(seen, wanted, *names)
    if grad:  # without it, open_clip's gradients are those of the features of a rank: 1/W of the whole
        whole = clip.by_hand(store, csv, ranks[0][:n] + ranks[1][:n], before)
        after = clip.stepped(before, whole, accumulated)
        second = clip.by_hand(store, csv, ranks[0][n : 2 * n] + ranks[1][n : 2 * n], after, own)
        close(loss.seen[accumulated], second, *names)
    if local:
        clip.train(store, args, trained, epochs=3)
        later = clip.by_hand(store, csv, ranks[0][:n] + ranks[1][:n], model, own)
        assert all(later[name] < wanted[name] for name in names), (accumulated, wanted, later)

# the sigmoid loss: each rank has its images with all texts
model = clip.new_model(init_logit_bias=-10.0)
wanted = clip.by_hand(store, csv, ranks[0][:4] + ranks[1][:4], copy.deepcopy(model), slice(rank * 4, rank * 4 + 4))
close(clip.train(store, arguments(1, False, False, siglip=True), wrapped(model)).seen[0], wanted, "soft_loss")

# another soft loss, of the whole matrix
model = clip.new_model()
wanted = clip.by_hand(store, csv, ranks[0][:4] + ranks[1][:4], copy.deepcopy(model))
loss = clip.train(store, arguments(1, False, False), wrapped(model), soft=Bcls(gap=0.01), base_weight=0)
close({"bcls": loss.seen[0]["soft_loss"]}, wanted, "bcls")

# batches of unequal sizes are an error on every rank, not a wait
batches = loss.batches
batches._given, batches._uses = [([0] * (3 + rank), [0] * (3 + rank))], 0
batches._step += 1
try:
    loss(image_features=torch.ones(3 + rank, 2), text_features=torch.ones(3 + rank, 2), logit_scale=torch.tensor(1.0))
except ConfigError as error:
    assert "batches of [3, 4] pairs" in str(error), error
else:
    raise AssertionError("not refused")
print("done")
"""


def test_two_processes(clip: Any, demo_store: Path, pairs_csv: Path, two_processes: Callable[..., list[str]]) -> None:
    """gloo: alone and accumulated, whole and local losses, gradients gathered or not."""
    assert two_processes(SCRIPT, HERE, demo_store, pairs_csv) == ["done\n"] * 2
