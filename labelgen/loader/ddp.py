"""Distributed training: gather ids, not labels.

Soft labels of a global batch are [W B, W B]; its ids are W B short texts. So ranks exchange ids, and each
computes the part of the labels that it uses from the mapped store::

    images, captions = gather_ids(batch["image_id"]), gather_ids(batch["caption_id"])
    labels = labeler(images.own, captions.all)        # [B, W B]: own images against the captions of all ranks
    labels = labeler(images.all, captions.all)        # [W B, W B]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from labelgen.errors import requires
from labelgen.loader.batches import plain_id
from labelgen.store.index import id_texts


class GatheredIds(NamedTuple):
    """Ids of a batch on all ranks.

    Attributes:
        all: the ids of rank 0, of rank 1, ...
        start, stop: those of this rank are all[start:stop].
    """

    all: list[str]
    start: int
    stop: int

    @property
    def own(self) -> list[str]:
        return self.all[self.start : self.stop]


def gather_ids(ids: Iterable[Any], group: Any = None) -> GatheredIds:
    """The ids of all ranks, as text, in the order of the ranks; ranks may have different numbers of them.

    They travel as numbers (UTF-8), not as pickles: two `all_gather` calls of `torch.distributed`, on the device that
    its backend works with. Without a process group the ids of this process are all there are.

    Args:
        ids: the ids of this rank's batch: texts, whole numbers, or a tensor of them.
        group: a process group; the default one.
    """
    own = id_texts([plain_id(item) for item in ids])
    by_rank = gather_json(own, group)
    start = sum(map(len, by_rank[: _distributed().get_rank(group)])) if len(by_rank) > 1 else 0
    return GatheredIds([item for listed in by_rank for item in listed], start, start + len(own))


def gather_json(value: Any, group: Any = None) -> list[Any]:
    """What JSON can write, of all ranks in their order; without a process group that of this process."""
    distributed = _distributed()
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    return [json.loads(data) for data in _gathered(json.dumps(value).encode(), group)]


def _gathered(data: bytes, group: Any) -> list[bytes]:
    import torch

    distributed = _distributed()
    device = torch.device("cuda" if distributed.get_backend(group) == "nccl" else "cpu")
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.empty_like(size) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(sizes, size, group=group)
    lengths = [int(item) for item in sizes]
    padded = torch.zeros(max(lengths), dtype=torch.uint8, device=device)
    padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
    parts = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(parts, padded, group=group)
    return [part.cpu().numpy().tobytes()[:length] for part, length in zip(parts, lengths, strict=True)]


def _distributed() -> Any:
    with requires("torch", "build", "gather_ids"):
        import torch.distributed
    return torch.distributed
