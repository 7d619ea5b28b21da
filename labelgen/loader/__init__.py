"""Soft labels for training code: blocks of a batch, samplers, and adapters of training frameworks.

The names below are loaded when they are first used: none of them imports a framework before it is called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelgen.loader.blocks import Labeller, soft_labels
    from labelgen.loader.collate import SoftLabelCollate
    from labelgen.loader.negatives import HardNegatives, Negatives
    from labelgen.loader.samplers import NeighborBatchSampler

__all__ = ["HardNegatives", "Labeller", "Negatives", "NeighborBatchSampler", "SoftLabelCollate", "soft_labels"]

_PLACES = {
    "HardNegatives": "labelgen.loader.negatives:HardNegatives",
    "Labeller": "labelgen.loader.blocks:Labeller",
    "Negatives": "labelgen.loader.negatives:Negatives",
    "NeighborBatchSampler": "labelgen.loader.samplers:NeighborBatchSampler",
    "SoftLabelCollate": "labelgen.loader.collate:SoftLabelCollate",
    "soft_labels": "labelgen.loader.blocks:soft_labels",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'labelgen.loader' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
