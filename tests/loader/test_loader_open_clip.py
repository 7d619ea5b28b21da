"""OpenClipBatches and OpenClipLoss outside of a loop: which pairs a step has, what is refused, other losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader import Lookup, OpenClipBatches, OpenClipLoss, WithIds, with_ids
from labelgen.losses.modules import Bcls
from labelgen.store.reader import Store
from labelgen.testing.schemes import Everything

torch = pytest.importorskip("torch")
IMAGES, CAPTIONS = [f"img-{row}" for row in range(12)], [f"cap-{5 * row}" for row in range(12)]


def loader(size: int = 4, n: int = 12) -> Any:
    data = [(torch.full((2,), float(at)), torch.tensor([at])) for at in range(n)]
    return with_ids(torch.utils.data.DataLoader(data, batch_size=size), IMAGES[:n], CAPTIONS[:n])


def features(n: int = 4) -> dict[str, Any]:
    rows = torch.nn.functional.normalize(torch.randn(2, n, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    return {"image_features": rows[0], "text_features": rows[1], "logit_scale": torch.tensor(14.0)}


class Base(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A loss of open_clip's shape for one process."""

    def forward(self, image_features: Any, text_features: Any, logit_scale: Any, output_dict: bool = False) -> Any:
        return {"contrastive_loss": logit_scale * (image_features * text_features).sum()}


def test_a_batch_is_what_the_loop_unpacks(even: Store) -> None:
    batches = OpenClipBatches(loader(), even)
    for number, batch in enumerate(batches):
        images, texts = batch
        assert images.to(device="cpu", dtype=torch.float64, non_blocking=True)[:, 0].tolist() == [
            *range(4 * number, 4 * number + 4)
        ]
        given = batches.given(4)
        assert given.images.tolist() == texts[:, 0].tolist()
        assert given.captions.tolist() == [5 * row for row in given.images]
    assert (len(batches), batches.num_batches, batches.num_samples) == (3, 3, 12)
    inner = loader()
    inner.num_batches, inner.num_samples = 7, 99  # as open_clip's data.py sets them
    assert (OpenClipBatches(inner, even).num_batches, OpenClipBatches(inner, even).num_samples) == (7, 99)
    again = with_ids(inner, IMAGES, CAPTIONS)
    assert (again.num_batches, again.batch_sampler) == (7, inner.batch_sampler)


def test_mappings_paths_and_unknown_ids(even: Store) -> None:
    mapping = [
        {
            "image": torch.zeros(2, 1),
            "text": torch.zeros(2, 1),
            "image_id": ["img-3", "x"],
            "caption_id": ["cap-15", "cap-16"],
        }
    ]
    batches = OpenClipBatches(mapping, even, missing="mask")
    ((batch),) = list(batches)
    assert list(batch) == ["image", "text"]
    assert [rows.tolist() for rows in batches.given(2)[1:]] == [[3, -1], [15, 16]]
    files, texts = even.images["file"].to_list(), even.captions["text"].to_list()
    by_text = OpenClipBatches([(0, 0, files[:2], [texts[0], texts[5]])], even, lookup=Lookup(even))
    assert list(by_text) == [(0, 0)]
    assert by_text.given(2).captions.tolist() == [0, 5]


def test_a_step_of_several_batches(even: Store) -> None:
    batches = OpenClipBatches(loader(), even)
    passing = iter(batches)
    for _ in range(2):
        next(passing)
    steps = [batches.given(8) for _ in range(2)]
    assert steps[0].step == steps[1].step
    assert steps[1].images.tolist() == list(range(8))
    next(passing)
    assert batches.given(4).images.tolist() == [8, 9, 10, 11]
    passing = iter(batches)
    next(passing)
    assert batches.given(4).images.tolist() == [0, 1, 2, 3]


def test_a_loss_out_of_step_is_refused(even: Store) -> None:
    batches = OpenClipBatches(loader(), even)
    loss = OpenClipLoss(batches, Base())
    with pytest.raises(ConfigError, match="no batch since the epoch began"):
        loss(**features())
    passing = iter(batches)
    next(passing)
    loss(**features())
    with pytest.raises(ConfigError, match="called again for pairs"):  # as for validation
        loss(**features())
    next(passing), next(passing)  # as something that reads ahead
    with pytest.raises(ConfigError, match=r"features of 4 pairs\n  found: batches of \[4, 4\] pairs"):
        loss(**features())
    one, other = iter(batches), iter(batches)
    next(one), next(other)
    with pytest.raises(ConfigError, match="an earlier pass"):
        next(one)


def test_losses_of_a_batch(even: Store) -> None:
    """The base and the soft loss as they are called alone, weighted."""
    soft = labelgen.soft_labels(even, IMAGES[:4], CAPTIONS[:4], scheme="bcls()")
    given = features()
    scores = given["image_features"] @ given["text_features"].T
    for module, weight, base_weight in ((None, 2.0, 1.0), (Bcls(gap=0.01), 0.5, 3.0), (Bcls(gap=0.01), 1.0, 0.0)):
        batches = OpenClipBatches(loader(), even, scheme="bcls()")
        next(iter(batches))
        loss = OpenClipLoss(batches, Base(), module, weight=weight, base_weight=base_weight)
        found = loss(**given, output_dict=True)
        if module is None:
            wanted = labelgen.losses.csa(
                scores, soft.relevance, temperature=1 / given["logit_scale"], relevance_temperature=0.1
            )
        else:
            wanted = module(scores, soft.map(torch.from_numpy))
        torch.testing.assert_close(found["soft_loss"], weight * wanted)
        assert ("contrastive_loss" in found) == (base_weight > 0)
        next(iter(batches))
        torch.testing.assert_close(loss(**given), sum(found.values()))


def test_options_that_do_not_go_together(even: Store) -> None:
    batches, base = OpenClipBatches(loader(), even), Base()
    base.world_size, base.local_loss = 2, True
    with pytest.raises(ConfigError, match="local_loss"):
        OpenClipLoss(batches, base, Bcls())
    OpenClipLoss(batches, base)
    base.use_horovod = True
    with pytest.raises(ConfigError, match="horovod"):
        OpenClipLoss(batches, base)
    base.use_horovod = False
    next(iter(batches))
    with pytest.raises(ConfigError, match=r"on 1 ranks, world_size=2"):
        OpenClipLoss(batches, base)(**features())


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_the_losses_of_open_clip(even: Store) -> None:
    """Sigmoid, CoCa and distillation take arguments of their own."""
    losses = pytest.importorskip("open_clip.loss")
    given = features()
    others: list[tuple[Any, dict[str, Any]]] = [
        (losses.SigLipLoss(), {"logit_bias": torch.tensor(-1.0)}),
        (losses.CoCaLoss(1.0, 1.0), {"logits": torch.zeros(4, 3, 7), "labels": torch.ones(4, 3, dtype=torch.long)}),
        (losses.DistillClipLoss(), {f"dist_{name}": value for name, value in features().items()}),
    ]
    for base, more in others:
        batches = OpenClipBatches(loader(), even)
        next(iter(batches))
        found = OpenClipLoss(batches, base)(**given, **more, output_dict=True)
        alone = base(**given, **more, output_dict=True)
        assert set(found) == {*alone, "soft_loss"}
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value)


def test_loaders_without_ids_are_refused(even: Store) -> None:
    with pytest.raises(ConfigError, match=r"without ids\n  found: 2 parts"):
        next(iter(OpenClipBatches([(1, 2)], even)))
    with pytest.raises(ConfigError, match="'image', 'text'"):
        next(iter(OpenClipBatches([{"image": 1, "text": 2}], even)))
    with pytest.raises(ConfigError, match="2 samples with 2 image ids and 1 caption ids"):
        WithIds([1, 2], ["a", "b"], ["c"])
    with pytest.raises(ConfigError, match="a list of a NoneType"):
        with_ids([1], ["a"], ["b"])
    assert WithIds([{"x": 1}], ["a"], ["b"])[0] == {"x": 1, "image_id": "a", "caption_id": "b"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_workers_keep_the_order(even: Store, workers: int) -> None:
    data = [(torch.tensor([at]), torch.tensor([at])) for at in range(12)]
    made = torch.utils.data.DataLoader(
        data, batch_size=3, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(5)
    )
    batches = OpenClipBatches(with_ids(made, IMAGES, CAPTIONS), even, scheme=Everything())
    seen: list[int] = []
    for images, _ in batches:
        np.testing.assert_array_equal(batches.given(3).images, images[:, 0])
        seen += images[:, 0].tolist()
    assert sorted(seen) == list(range(12))
    assert seen != list(range(12))
