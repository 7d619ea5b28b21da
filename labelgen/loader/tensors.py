"""`TensorLabels`: soft labels as torch tensors that training frameworks can take apart and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields

from labelgen.errors import requires
from labelgen.relevance.base import Array, SoftLabels

_NAMES = tuple(item.name for item in fields(SoftLabels))


class TensorLabels(SoftLabels, Mapping[str, Array]):
    """Soft labels of tensors: the attributes of `SoftLabels`, and a mapping of the tensors that are there, by name.

    Frameworks move, broadcast, slice, concatenate and gather a mapping tensor by tensor and rebuild it from a dict,
    which is what the constructor takes (accelerate, the Hugging Face Trainer, Lightning, torch's `pin_memory`). They
    join several batches along the first dimension, and then the shapes are those of blocks one below the other: shapes
    are not checked here.

    In the mapping, `threshold` is a vector with the same number for every image, so that it is cut as the others are;
    the attribute is the number.

    Args:
        tensors: by the names of the attributes.
        named: the same as keywords, as `dataclasses.replace` gives them.
    """

    def __init__(self, tensors: Mapping[str, Array] | None = None, /, **named: Array) -> None:
        given = {**(tensors or {}), **named}
        there = {name: given[name] for name in _NAMES if given.get(name) is not None}
        if isinstance(there.get("threshold"), float):
            rows = there["relevance"]
            there["threshold"] = rows.new_full(rows.shape[:1], there["threshold"])
        object.__setattr__(self, "_tensors", there)
        for name in _NAMES:
            if name != "threshold":
                object.__setattr__(self, name, there.get(name))

    @property
    def threshold(self) -> float | None:
        """A similarity that the scheme looked up, or None."""
        return float(self["threshold"][0]) if "threshold" in self else None

    def __getitem__(self, name: str) -> Array:
        tensors: dict[str, Array] = vars(self)["_tensors"]
        return tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(vars(self)["_tensors"])

    def __len__(self) -> int:
        return len(vars(self)["_tensors"])

    def map(self, function: Callable[[Array], Array]) -> TensorLabels:
        """The same labels with `function` applied to every tensor."""
        return TensorLabels({name: function(value) for name, value in self.items()})


def to_tensors(labels: SoftLabels) -> TensorLabels:
    """The same labels as torch tensors, which share the memory of the arrays."""
    with requires("torch", "build", "to_tensors"):
        import torch
    tensors = {name: torch.from_numpy(array) for name, array in labels.arrays().items()}
    return TensorLabels(tensors, threshold=labels.threshold)
