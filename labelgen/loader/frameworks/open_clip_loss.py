"""`OpenClipLoss`: a loss of open_clip with soft labels beside it, for its training loop as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from labelgen.errors import ConfigError, StoreMismatchError
from labelgen.loader.ddp import gather_json
from labelgen.loader.frameworks.open_clip_batches import GivenPairs, OpenClipBatches
from labelgen.loader.tensors import TensorLabels, to_tensors
from labelgen.losses import csa, soft_contrastive
from labelgen.relevance.base import SoftLabels

#: A loss of scores [B, B], rows are images, and the soft labels of the batch: any module of `labelgen.losses.modules`.
SoftLoss: TypeAlias = Callable[[Tensor, SoftLabels], Tensor]


class OpenClipLoss(nn.Module):
    """`base_weight * base + weight * soft`, called as open_clip calls its losses.

    The pairs are those that `batches` gave since the last step: one batch, or with `--accum-freq` several, in the order
    in which open_clip joins their features. With `world_size > 1` they are those of all ranks, in the order in which
    open_clip gathers features, and the soft loss gathers as `base` does:

    ==============================  ====================================================================
    `local_loss=False`              every rank computes the loss of all pairs, B of W ranks: [W B, W B]
    `local_loss=True`               of its images with all texts, and of its texts with all images
    `gather_with_grad`              whether gradients flow into the features of other ranks
    ==============================  ====================================================================

    Labels of all pairs are made on every rank, (W B)^2 numbers an array. A rank sends its row numbers to the others.

    Args:
        batches: the loader of the training.
        base: the loss of open_clip, as its `create_loss(args)` makes it.
        soft: the soft loss, a function of cosines [B, B] and labels. None: `labelgen.losses.csa` at the temperature of
            the model, 1 / logit_scale. Its own parameters, if it has any, need a place in the optimizer.
        weight, base_weight: of the two. With `base_weight=0` the base is not computed.
        relevance_temperature: of the labels of `csa`.

    Raises:
        ConfigError: horovod, or `soft` with `local_loss`.
    """

    def __init__(
        self,
        batches: OpenClipBatches,
        base: nn.Module,
        soft: SoftLoss | None = None,
        *,
        weight: float = 1.0,
        base_weight: float = 1.0,
        relevance_temperature: float = 0.1,
    ) -> None:
        super().__init__()
        if getattr(base, "use_horovod", False):
            raise ConfigError(
                "soft labels are not gathered with horovod", expected="torch.distributed, open_clip without --horovod"
            )
        self.batches, self.base, self.soft = batches, base, soft
        self.weight, self.base_weight, self.relevance_temperature = weight, base_weight, relevance_temperature
        self.rank: int = getattr(base, "rank", 0)
        self.world_size: int = getattr(base, "world_size", 1)
        # The sigmoid loss has neither option: it compares own images with all texts, and gradients reach all ranks.
        self.local_loss: bool = self.world_size > 1 and getattr(base, "local_loss", soft is None)
        self.gather_with_grad: bool = getattr(base, "gather_with_grad", True)
        if soft is not None and self.local_loss:
            raise ConfigError(
                "a soft loss of your own takes the scores of a whole batch, which local_loss does not make",
                expected="soft=None, or open_clip without --local-loss",
            )
        self._kept: tuple[int, TensorLabels, slice] | None = None

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        output_dict: bool = False,
        **others: Any,
    ) -> dict[str, Tensor] | Tensor:
        """The losses of `base` and `soft_loss`, already weighted, or their sum.

        Raises:
            ConfigError: the features are not those of the batches that were given since the last step.
            StoreMismatchError: ranks have opened different stores.
        """
        given = self.batches.given(len(image_features))
        if self._kept is None or self._kept[0] != given.step:
            self._kept = given.step, *self._labels(given, image_features.device)
        _, labels, own = self._kept
        losses: dict[str, Tensor] = {}
        if self.base_weight:
            features = {"image_features": image_features, "text_features": text_features, "logit_scale": logit_scale}
            found = self.base(**features, **others, output_dict=True)
            losses = {name: self.base_weight * loss for name, loss in found.items()}
        soft = self.weight * self._soft(image_features, text_features, logit_scale, labels, own)
        if not self.base_weight:  # DistributedDataParallel waits for a gradient of every parameter
            outputs = (logit_scale, *(value for value in others.values() if torch.is_tensor(value)))
            soft = soft + sum(0.0 * output.sum() for output in outputs if output.requires_grad)
        losses["soft_loss"] = soft
        return losses if output_dict else torch.stack(list(losses.values())).sum()

    def _soft(self, images: Tensor, texts: Tensor, logit_scale: Tensor, labels: TensorLabels, own: slice) -> Tensor:
        all_images, all_texts = self._gathered(images, texts)
        if self.soft is not None:
            return self.soft(all_images @ all_texts.T, labels)
        temperature = 1 / logit_scale.float().mean()  # a scalar, or one number in a vector
        common: dict[str, Any] = {
            "temperature": temperature,
            "relevance_temperature": self.relevance_temperature,
        }
        i2t, t2i = labels.relevance, labels.relevance_t2i
        if not self.local_loss:
            loss: Tensor = csa(all_images @ all_texts.T, i2t, relevance_t2i=t2i, where=labels.where, **common)
            return loss
        t2i = i2t.T if t2i is None else t2i
        rows = soft_contrastive(images @ all_texts.T, i2t[own], where=labels.where[own], **common)
        columns = soft_contrastive(texts @ all_images.T, t2i[own], where=labels.where.T[own], **common)
        half: Tensor = (rows + columns) / 2
        return half

    def _gathered(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """The features of all ranks, as the base gathers them."""
        if self.world_size == 1:
            return images, texts
        from open_clip.loss import gather_features

        found: tuple[Tensor, Tensor] = gather_features(
            images,
            texts,
            local_loss=self.local_loss,
            gather_with_grad=self.gather_with_grad,
            rank=self.rank,
            world_size=self.world_size,
        )
        return found

    def _labels(self, given: GivenPairs, device: torch.device) -> tuple[TensorLabels, slice]:
        """Labels of the pairs of all ranks, and which of them are those of this rank."""
        labeler = self.batches.pairs.labeler
        own = {
            "store": " ".join([labeler.store.manifest.content_digest, *labeler.store.chosen]),
            "images": given.images.tolist(),
            "captions": given.captions.tolist(),
        }
        ranks = [own] if self.world_size == 1 else gather_json(own)
        sizes = [len(rank["images"]) for rank in ranks]
        if len({rank["store"] for rank in ranks}) > 1:
            raise StoreMismatchError(
                "ranks have opened different stores",
                found=", ".join(rank["store"] for rank in ranks),
                expected="one content on all ranks",
            )
        if len(ranks) != self.world_size or len(set(sizes)) > 1:
            raise ConfigError(
                "open_clip gathers the features of ranks with equal batches",
                found=f"batches of {sizes} pairs on {len(ranks)} ranks, world_size={self.world_size}",
                todo="drop the last batch of an epoch, as open_clip's loaders do",
            )
        images, captions = (
            np.array([row for rank in ranks for row in rank[side]], np.int64) for side in ("images", "captions")
        )
        labels = labeler.labels(labeler.batch_of(images, captions))
        start = sizes[0] * (self.rank if self.world_size > 1 else 0)
        moved = to_tensors(labels).map(lambda tensor: tensor.to(device, non_blocking=True))
        return moved, slice(start, start + sizes[0])
