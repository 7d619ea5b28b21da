"""The protocol of schemes: the blocks of similarities a scheme requests, and the soft labels it computes from them.

A scheme is a pure function from the similarities of a batch (`Blocks`) to `SoftLabels`. It opens no store, so anything
that can make blocks can use it; `labelgen.loader` makes them from a store. A scheme prints as text and parses back:
`str(scheme("cusa(mode='add')").spec)`, and is registered in the entry-point group `labelgen.schemes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np

from labelgen import registry
from labelgen.errors import ArrayError, ConfigError
from labelgen.specs import Spec
from labelgen.types import Bool, Float32, Int64, Relation

#: How an image's captions are made into one number. `max` and `mean` are those of the store; `max_other` is the maximum
#: without the caption that is compared, `top2` the mean of the two largest without it, `sets` the cosine of the sums of
#: the unit rows of two caption sets: of the image, and of the image of the caption (of a pair of one image: of the
#: other captions and the caption); `first` looks at the image's first caption only.
SetAggregation: TypeAlias = str
SET_AGGREGATIONS = ("max", "mean", "max_other", "first", "top2", "sets")
#: The aggregations for which an annotated caption is not compared with itself.
LEFT_OUT = frozenset({"max_other", "top2", "sets"})
#: No aggregation of similarities, but the logarithm of 1 + the number of words of the caption; of no teacher.
LENGTH = "length"

#: Level in [0, 1] -> similarity of random pairs at that level: the store's table.
Quantiles: TypeAlias = Mapping[float, float]

#: A numpy array, or after `SoftLabels.map` an array of another library.
Array: TypeAlias = Any


@dataclass(frozen=True)
class BlockRequest:
    """One block of similarities that a scheme requests; also the key of that block in `Blocks`.

    Attributes:
        relation: `i2t` [A, B], `t2t` [B, B] or `i2i` [A, A], for A images and B captions. (`t2i` is `i2t` by columns.)
        alias: the teacher; None for the only one of the store that can serve the relation.
        aggregation: of an image's captions, for `i2t` with a text teacher: one of `SET_AGGREGATIONS`; or `LENGTH`.
        centred: compare rows minus the mean row of the store's train split (of all rows where there is none).
    """

    relation: Relation
    alias: str | None = None
    aggregation: SetAggregation = "max"
    centred: bool = False

    def __post_init__(self) -> None:
        if self.is_length:
            return
        if self.relation is Relation.T2I:
            raise ConfigError("a scheme requests t2i", expected="i2t, which is the same matrix, rows are images")
        if self.aggregation not in SET_AGGREGATIONS:
            raise ConfigError(f"aggregation={self.aggregation!r} is unknown", expected=", ".join(SET_AGGREGATIONS))
        if self.relation is not Relation.I2T and self.aggregation != "max" and not self.of_two_sets:
            raise ConfigError(
                f"{self.relation} compares single rows, so there is nothing to aggregate",
                found=f"aggregation={self.aggregation!r}",
            )

    @property
    def of_two_sets(self) -> bool:
        """Whether two captions are compared as the caption sets of their images: a label of the card only."""
        return self.relation is Relation.T2T and self.aggregation == "sets"

    @property
    def is_length(self) -> bool:
        """Whether this is the length of the caption, no similarity."""
        return self.aggregation == LENGTH and self.relation is Relation.I2T and self.alias is None

    def __str__(self) -> str:
        if self.is_length:
            return LENGTH
        how = "" if self.aggregation == "max" else self.aggregation
        parts = [self.relation.value, self.alias or "", "centred" if self.centred else "", how]
        return ".".join(part for part in parts if part)


#: The length of the caption as an input, log(1 + words), equal for all images.
CAPTION_LENGTH = BlockRequest(Relation.I2T, None, LENGTH)


@dataclass(frozen=True)
class Blocks:
    """The similarities of a batch of A images and B captions, and which of its pairs are positive.

    Most batches are aligned pairs: A = B, and caption b is a caption of image b. Others (images of this process against
    captions of all processes) have A != B and are enough for schemes that need `i2t` only.

    Attributes:
        similarities: float32 blocks as the store defines them, rows and columns as in `BlockRequest`.
        image_rows: image row of every image, int64 [A].
        caption_images: image row that every caption belongs to, int64 [B].
        where: which entries [A, B] can be compared in all blocks; None for all. Blocks hold 0 elsewhere.
        quantiles: tables of random pairs, for the requests in `Scheme.quantiles`.

    Raises:
        ArrayError: a block of another shape.
    """

    similarities: Mapping[BlockRequest, Float32]
    image_rows: Int64
    caption_images: Int64
    where: Bool | None = None
    quantiles: Mapping[BlockRequest, Quantiles] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images, captions = len(self.image_rows), len(self.caption_images)
        shapes = {"i2t": (images, captions), "t2t": (captions, captions), "i2i": (images, images)}
        for request, block in self.similarities.items():
            _check_shape(request, block, shapes[request.relation])
        if self.where is not None:
            _check_shape("where", self.where, (images, captions))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.image_rows), len(self.caption_images)

    @cached_property
    def same_image(self) -> Bool:
        """Whether caption b is a caption of image a, bool [A, B]; includes the pairs of the batch."""
        same: Bool = self.image_rows[:, None] == self.caption_images[None, :]
        return same

    @cached_property
    def aligned(self) -> bool:
        """Whether caption b belongs to image b for every b."""
        return np.array_equal(self.image_rows, self.caption_images)

    @cached_property
    def positive(self) -> Bool:
        """The pairs of the batch, bool [A, B]: the diagonal if it is aligned, else `same_image`."""
        return np.eye(len(self.image_rows), dtype=np.bool_) if self.aligned else self.same_image

    @property
    def own(self) -> Bool:
        """The first name of `positive`."""
        return self.positive

    def get(self, request: BlockRequest) -> Float32:
        """The block of a request.

        Raises:
            ConfigError: it was not made.
        """
        if request not in self.similarities:
            raise ConfigError(
                f"there is no block {request}", found=", ".join(map(str, self.similarities)) or "no blocks"
            )
        return self.similarities[request]

    def quantile_table(self, request: BlockRequest) -> Quantiles:
        """The table of random pairs of a request.

        Raises:
            ConfigError: it was not given.
        """
        if not self.quantiles.get(request):
            raise ConfigError(
                f"there is no quantile table of {request}",
                todo="a store keeps one for every relation and teacher: use labelgen.loader, or pass quantiles=",
            )
        return self.quantiles[request]


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of a batch; rows of [A, B] arrays are images, columns are captions.

    Arrays are numpy as schemes make them; `map` turns all of them into another library's.

    Attributes:
        relevance: the target of the image-to-text half, [A, B]; of both halves unless `relevance_t2i` is there.
        relevance_t2i: the target of the text-to-image half where it is not the transpose of `relevance`, [B, A].
        same_image: whether caption b is a caption of image a, bool [A, B]; a triplet's negatives are `~same_image`.
        where: entries that count, bool [A, B]; False where an item of the pair has no embedding.
        image_rows: image row of every image, int64 [A].
        i2t, t2t, i2i: the similarities that the scheme used, untransformed, [A, B], [B, B], [A, A]; None if unused.
        weights: weight of every pair in a pairwise loss, [A, B]; None unless the scheme makes weights.
        threshold: a similarity that the scheme looked up (a percentile of random pairs); None unless it did.
        same_group: whether the image of caption b is image a or one of its group, bool [A, B]; None where images have
            no groups. Negatives are then `~same_group`.

    Raises:
        ArrayError: an array of another shape.
    """

    relevance: Array
    same_image: Array
    where: Array
    image_rows: Array
    relevance_t2i: Array | None = None
    i2t: Array | None = None
    t2t: Array | None = None
    i2i: Array | None = None
    weights: Array | None = None
    threshold: float | None = None
    same_group: Array | None = None

    def __post_init__(self) -> None:
        images, captions = self.relevance.shape
        shapes = {
            **dict.fromkeys(("same_image", "same_group", "where", "i2t", "weights"), (images, captions)),
            "relevance_t2i": (captions, images),
            "t2t": (captions, captions),
            "i2i": (images, images),
            "image_rows": (images,),
        }
        for name, shape in shapes.items():
            if getattr(self, name) is not None:
                _check_shape(name, getattr(self, name), shape)

    def arrays(self) -> dict[str, Array]:
        """The arrays that are there, by name."""
        found = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "threshold"}
        return {name: value for name, value in found.items() if value is not None}

    def map(self, function: Callable[[Array], Array]) -> SoftLabels:
        """The same labels with `function` applied to every array, for example `torch.from_numpy`."""
        return replace(self, **{name: function(value) for name, value in self.arrays().items()})

    # The two methods by which torch's DataLoader and Lightning move what they do not know.
    def to(self, *args: Any, **kwargs: Any) -> SoftLabels:
        """Every array moved by its own `to`, for tensors."""
        return self.map(lambda array: array.to(*args, **kwargs))

    def pin_memory(self, *args: Any) -> SoftLabels:
        """Every array in pinned memory, for tensors."""
        return self.map(lambda array: array.pin_memory(*args))


@runtime_checkable
class Scheme(Protocol):
    """From similarities to targets. Any object of this shape; see `labelgen.relevance.bcls` for one."""

    @property
    def spec(self) -> Spec:
        """Its text form: `scheme(str(self.spec))` is an equal scheme."""
        ...

    @property
    def needs(self) -> frozenset[BlockRequest]:
        """The blocks that `relevance` reads."""
        ...

    @property
    def quantiles(self) -> frozenset[BlockRequest]:
        """Those of `needs` whose quantile tables it reads too."""
        ...

    def relevance(self, blocks: Blocks) -> SoftLabels:
        """Soft labels of a batch; pure, gives new arrays."""
        ...


def spec_of(name: str, made: Any) -> Spec:
    """The spec of a scheme or a fusion that is a dataclass: its fields, those at their default left out."""
    values = {item.name: (getattr(made, item.name), item.default) for item in fields(made)}
    return Spec.of(name, **{key: value for key, (value, default) in values.items() if value != default})


class NamedScheme:
    """Base of schemes that are dataclasses: text form, requests, no quantile tables.

    Subclasses set `name`, the name in specs, and `requests`; those that read a table override `quantiles`.
    """

    name: ClassVar[str]

    @property
    def spec(self) -> Spec:
        return spec_of(self.name, self)

    @cached_property
    def requests(self) -> tuple[BlockRequest, ...]:
        """The blocks that `relevance` reads."""
        raise NotImplementedError

    @property
    def needs(self) -> frozenset[BlockRequest]:
        return frozenset(self.requests)

    @cached_property
    def quantiles(self) -> frozenset[BlockRequest]:
        return frozenset()


def set_request(alias: str | None, aggregation: SetAggregation, *, centred: bool = False) -> BlockRequest:
    """The `i2t` block of a text teacher.

    Raises:
        ConfigError: not one of `SET_AGGREGATIONS`.
    """
    if aggregation not in SET_AGGREGATIONS:
        raise ConfigError(f"aggregation={aggregation!r} is unknown", expected=", ".join(SET_AGGREGATIONS))
    return BlockRequest(Relation.I2T, alias, aggregation, centred)


def scheme(text: str | Spec | Scheme) -> Scheme:
    """The scheme that a text such as `"cusa(mode='add')"` names; a scheme is given back as it is.

    Raises:
        SpecError: not a spec, or an argument that the scheme does not take.
        UnknownNameError: no such scheme; offers near names.
    """
    if isinstance(text, str):
        text = Spec.parse(text)
    if isinstance(text, Spec):
        made: Scheme = registry.create("scheme", text)
        return made
    return text


def _check_shape(name: str | BlockRequest, array: Array, shape: tuple[int, ...]) -> None:
    if tuple(array.shape) != shape:
        name = name if isinstance(name, str) else f"block {name}"
        raise ArrayError(f"{name} has the wrong shape", found=str(tuple(array.shape)), expected=str(shape))
