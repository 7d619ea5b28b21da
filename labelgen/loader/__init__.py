"""Soft labels for training code: blocks of a batch, samplers, and adapters of training frameworks.

The names below are loaded when they are first used: none of them imports a framework before it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.loader.batches import AddSoftLabels
    from labelgen.loader.blocks import SoftLabeler, soft_labels
    from labelgen.loader.collate import SoftLabelCollate
    from labelgen.loader.ddp import GatheredIds, gather_ids
    from labelgen.loader.fine_grained import PairLabels, pair_labels
    from labelgen.loader.frameworks.jax_arrays import to_jax
    from labelgen.loader.frameworks.lightning_hooks import SoftLabelMixin
    from labelgen.loader.frameworks.open_clip_batches import OpenClipBatches, WithIds, with_ids
    from labelgen.loader.frameworks.open_clip_loss import OpenClipLoss
    from labelgen.loader.frameworks.webdataset_stages import soft_label_stage
    from labelgen.loader.listed_pairs import ListedPairs, read_pairs
    from labelgen.loader.lookup import Lookup
    from labelgen.loader.negatives import HardNegatives, Negatives
    from labelgen.loader.on_device import OnDevice
    from labelgen.loader.samplers import NeighborBatchSampler
    from labelgen.loader.tensors import TensorLabels, to_tensors

__all__ = [
    "AddSoftLabels",
    "GatheredIds",
    "HardNegatives",
    "ListedPairs",
    "Lookup",
    "Negatives",
    "NeighborBatchSampler",
    "OnDevice",
    "OpenClipBatches",
    "OpenClipLoss",
    "PairLabels",
    "SoftLabelCollate",
    "SoftLabelMixin",
    "SoftLabeler",
    "TensorLabels",
    "WithIds",
    "gather_ids",
    "pair_labels",
    "read_pairs",
    "soft_label_stage",
    "soft_labels",
    "to_jax",
    "to_tensors",
    "with_ids",
]

_PLACES = {
    "AddSoftLabels": "labelgen.loader.batches:AddSoftLabels",
    "GatheredIds": "labelgen.loader.ddp:GatheredIds",
    "HardNegatives": "labelgen.loader.negatives:HardNegatives",
    "Labeller": "labelgen.loader.blocks:SoftLabeler",  # its first name
    "SoftLabeler": "labelgen.loader.blocks:SoftLabeler",
    "ListedPairs": "labelgen.loader.listed_pairs:ListedPairs",
    "Lookup": "labelgen.loader.lookup:Lookup",
    "Negatives": "labelgen.loader.negatives:Negatives",
    "NeighborBatchSampler": "labelgen.loader.samplers:NeighborBatchSampler",
    "OnDevice": "labelgen.loader.on_device:OnDevice",
    "OpenClipBatches": "labelgen.loader.frameworks.open_clip_batches:OpenClipBatches",
    "OpenClipLoss": "labelgen.loader.frameworks.open_clip_loss:OpenClipLoss",
    "PairLabels": "labelgen.loader.fine_grained:PairLabels",
    "SoftLabelCollate": "labelgen.loader.collate:SoftLabelCollate",
    "SoftLabelMixin": "labelgen.loader.frameworks.lightning_hooks:SoftLabelMixin",
    "TensorLabels": "labelgen.loader.tensors:TensorLabels",
    "WithIds": "labelgen.loader.frameworks.open_clip_batches:WithIds",
    "gather_ids": "labelgen.loader.ddp:gather_ids",
    "pair_labels": "labelgen.loader.fine_grained:pair_labels",
    "read_pairs": "labelgen.loader.listed_pairs:read_pairs",
    "soft_label_stage": "labelgen.loader.frameworks.webdataset_stages:soft_label_stage",
    "soft_labels": "labelgen.loader.blocks:soft_labels",
    "to_jax": "labelgen.loader.frameworks.jax_arrays:to_jax",
    "to_tensors": "labelgen.loader.tensors:to_tensors",
    "with_ids": "labelgen.loader.frameworks.open_clip_batches:with_ids",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
