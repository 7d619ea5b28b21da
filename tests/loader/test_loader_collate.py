"""SoftLabelCollate in a real DataLoader: any sample shape, fork and spawn, many epochs, no copy of the store."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader import SoftLabelCollate
from labelgen.loader.batches import attach
from labelgen.store.reader import Store
from labelgen.testing.schemes import Everything

torch = pytest.importorskip("torch")

#: Python 3.12 warns of what these tests are about.
FORK_WARNING = "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"


class Pairs(torch.utils.data.Dataset[Any]):  # type: ignore[misc, name-defined]
    """One sample a caption of `even`: five captions an image."""

    def __init__(self, n: int = 64) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"image_id": f"img-{at}", "caption_id": f"cap-{5 * at + at % 5}", "x": torch.full((3,), float(at))}


def expected(store: Store, image_ids: list[str], caption_ids: list[str]) -> Any:
    return labelgen.soft_labels(store, image_ids, caption_ids, scheme=Everything())


def check(store: Store, batch: Any) -> None:
    labels, wanted = batch["soft_labels"], expected(store, batch["image_id"], batch["caption_id"])
    assert set(labels.arrays()) == set(wanted.arrays())
    for name, value in wanted.arrays().items():
        assert isinstance(labels.arrays()[name], torch.Tensor)
        np.testing.assert_array_equal(labels.arrays()[name].numpy(), value)


@pytest.mark.filterwarnings(FORK_WARNING)
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_of_both_kinds_over_epochs(even: Store, context: str) -> None:
    """Persistent workers, three epochs; the parent has used polars, whose threads do not survive a fork."""
    assert even.images.height == 64
    loader = torch.utils.data.DataLoader(
        Pairs(), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True, timeout=60,
        multiprocessing_context=context, collate_fn=SoftLabelCollate(even, scheme=Everything()),
    )  # fmt: skip
    for _ in range(3):
        seen = []
        for batch in loader:
            check(even, batch)
            seen += batch["image_id"]
        assert sorted(seen) == sorted(f"img-{row}" for row in range(64))
    loader._iterator._shutdown_workers()


def blas_threads(_samples: list[Any]) -> int:
    from threadpoolctl import threadpool_info

    return max((pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"), default=1)


@pytest.mark.filterwarnings(FORK_WARNING)
def test_workers_use_one_blas_thread(even: Store) -> None:
    before = blas_threads([])
    collate = SoftLabelCollate(even, scheme=Everything(), collate=blas_threads)
    loader = torch.utils.data.DataLoader(Pairs(), batch_size=32, num_workers=2, timeout=60, collate_fn=collate)
    assert [threads for threads, _ in loader] == [1, 1]
    assert blas_threads([]) == before


def test_errors_of_a_worker_keep_their_words(even: Store) -> None:
    collate = SoftLabelCollate(even, scheme=Everything())
    loader = torch.utils.data.DataLoader(Pairs(80), batch_size=80, collate_fn=collate)
    with pytest.raises(KeyError, match=r"16 of 80 image ids are not in this store"):
        next(iter(loader))


Sample = namedtuple("Sample", ["image_id", "caption_id"])


@pytest.mark.parametrize(
    ("samples", "keys"),
    [
        ([("img-0", "cap-1"), ("img-1", "cap-5")], {"image_key": 0, "caption_key": 1}),
        ([Sample("img-0", "cap-1"), Sample("img-1", "cap-5")], {}),
        ([("img-0#1",), ("img-1#5",)], {
            "image_key": lambda sample: sample[0].partition("#")[0],
            "caption_key": lambda sample: "cap-" + sample[0].partition("#")[2]}),
        ([{"k": b"img-0", "caption_id": "cap-1"}, {"k": b"img-1", "caption_id": "cap-5"}], {"image_key": "k"}),
    ],
)  # fmt: skip
def test_ids_lie_anywhere_in_a_sample(even: Store, samples: list[Any], keys: dict[str, Any]) -> None:
    collate = SoftLabelCollate(even, scheme=Everything(), collate=len, tensors=False, **keys)
    size, labels = collate(samples)
    assert size == 2
    np.testing.assert_array_equal(labels.i2t, expected(even, ["img-0", "img-1"], ["cap-1", "cap-5"]).i2t)


def test_labels_join_any_batch(even: Store) -> None:
    labels = expected(even, ["img-0"], ["cap-0"])
    assert attach({"x": 1}, labels) == {"x": 1, "soft_labels": labels}
    assert attach({"x": 1}, labels, "targets") == {"x": 1, "targets": labels}
    assert attach((1, 2), labels) == (1, 2, labels)
    assert attach([1, 2], labels) == [1, 2, labels]
    assert attach("whole", labels) == ("whole", labels)
    assert attach(Sample(1, 2), labels) == (Sample(1, 2), labels)
    with pytest.raises(ConfigError, match="has a 'x' already"):
        attach({"x": 1}, labels, "x")


def test_wrong_keys_and_wrong_pairs_are_told(even: Store) -> None:
    collate = SoftLabelCollate(even, scheme=Everything(), collate=len)
    with pytest.raises(ConfigError, match=r"has no 'caption_id'\n.*'image_id'"):
        collate([{"image_id": "img-0"}])
    with pytest.raises(ConfigError, match=r"has no 'image_id'"):
        collate([(1, 2)])
    pair = [{"image_id": "img-0", "caption_id": "cap-0"}, {"image_id": "img-1", "caption_id": "cap-1"}]
    with pytest.raises(ConfigError, match=r"1 of 2 samples .*\n.*\('img-1', 'cap-1'\)"):
        collate(pair)
    loose = SoftLabelCollate(even, scheme=Everything(), collate=len, check_pairs=False)
    assert loose(pair)[1].same_image.tolist() == [[True, True], [False, False]]


def test_labels_move_with_the_batch(even: Store) -> None:
    """What Lightning and DataLoader call: `to` on the labels."""
    _, labels = SoftLabelCollate(even, scheme=Everything(), collate=len)([{"image_id": "img-0", "caption_id": "cap-0"}])
    moved = labels.to("meta")
    assert moved.i2t.device.type == "meta"
    assert moved.where.dtype == torch.bool


PLUGIN = """
store  = labelgen.open("stores/coco")                       # manifest and mmap; no torch needed
loader = DataLoader(data, collate_fn=SoftLabelCollate(store, image_key="image_id", caption_key="caption_id"))
for batch in loader:
    scores = model(batch["image"], batch["caption"])        # [B, B], rows are images
    soft   = batch["soft_labels"]                           # blocks i2t, t2t, i2i, same_image, ...
    loss   = triplet_soft_negative(scores, where=~soft.same_image) + kendall(scores, soft.i2t)
"""


def test_a_plugin_is_three_lines(even_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of the product's description as it is written there; batches of one, then of 16."""
    from labelgen.losses import kendall, triplet_soft_negative

    (tmp_path / "stores").mkdir()
    (tmp_path / "stores" / "coco").symlink_to(even_path)
    monkeypatch.chdir(tmp_path)
    data = [{**Pairs()[at], "image": torch.rand(8), "caption": torch.rand(8)} for at in range(32)]
    weight = torch.nn.Parameter(torch.ones(()))
    names: dict[str, Any] = {
        "labelgen": labelgen, "DataLoader": torch.utils.data.DataLoader, "data": data,
        "SoftLabelCollate": SoftLabelCollate, "triplet_soft_negative": triplet_soft_negative, "kendall": kendall,
        "model": lambda image, caption: weight * (image @ caption.T),
    }  # fmt: skip
    for code in (PLUGIN, PLUGIN.replace("DataLoader(data,", "DataLoader(data, batch_size=16,")):
        exec(compile(code, "plugin", "exec"), names)  # noqa: S102 - ours
    names["loss"].backward()
    assert torch.isfinite(weight.grad)
    assert weight.grad != 0


MEMORY = """
import sys
import numpy as np
import torch
import labelgen
from labelgen.loader import SoftLabelCollate
from labelgen.testing.schemes import Everything

path, method, with_labels = sys.argv[1], sys.argv[2], sys.argv[3] == "1"

def pss(pid="self"):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return {line.split()[0]: int(line.split()[1]) << 10 for line in file.readlines()[1:]}

class Pairs(torch.utils.data.Dataset):
    def __len__(self): return 4096
    def __getitem__(self, at): return {"image_id": f"img-{at}", "caption_id": f"cap-{at}"}

class Plain:
    def __call__(self, samples):
        return {"image_id": [sample["image_id"] for sample in samples]}

if __name__ == "__main__":
    torch.set_num_threads(1)
    collate = Plain()
    if with_labels:
        collate = SoftLabelCollate(labelgen.open(path), scheme=Everything(), collate=Plain())
    loader = torch.utils.data.DataLoader(
        Pairs(), batch_size=64, num_workers=2, persistent_workers=True, timeout=60,
        multiprocessing_context=method, collate_fn=collate)
    used = []
    for epoch in range(4):
        assert sum(len(batch["image_id"]) for batch in loader) == 4096
        used.append(sum(pss(worker.pid)["Pss_Anon:"] for worker in loader._iterator._workers))
    print(*used)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="PSS is read from /proc")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_no_worker_holds_a_copy_of_the_store(tmp_path: Path, method: str) -> None:
    """Anonymous PSS of two workers that read all of 50 MB of rows, beside the same loader without labels."""
    from labelgen.testing.stores import make_store

    root = make_store(
        tmp_path / "store", n_images=4096, captions_per_image=1, dims={"text": 2048, "image": 4096}, k=1, lists=False
    )
    script = tmp_path / "loader.py"
    script.write_text(MEMORY)

    def used(labels: str) -> list[int]:
        command = [sys.executable, script, root, method, labels]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
        return [int(word) for word in printed.split()]

    plain, ours = used("0"), used("1")
    assert ours[-1] - plain[-1] < 30e6, (plain, ours)  # scratch of the products, not 2 x 50 MB of rows
    assert ours[-1] - ours[1] < 4e6, "grows with the epochs"
