"""Forward passes of sentence models through a compiled network, several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from labelgen.teachers.compute import Compute, unit
from labelgen.types import Float32, Int64

if TYPE_CHECKING:
    import torch


class SentenceEncoder(Protocol):
    """Texts -> unit rows.

    Attributes:
        facts: of identity, beside those of the model.
    """

    facts: Mapping[str, Any]

    def encode(self, texts: list[str]) -> Float32:
        """[len(texts), dim] float32, in the order of the texts."""
        ...


class Tokeniser(Protocol):
    """Texts -> tokens of each, and tokens of several texts -> the inputs of a network."""

    def split(self, texts: list[str]) -> Sequence[Any]:
        """Tokens of each text, or what stands for them until it is known with which others it shares a pass."""
        ...

    def lengths(self, items: Sequence[Any]) -> Int64:
        """Tokens of each text; characters where the model masks none (static embeddings, which pad nothing)."""
        ...

    def inputs(self, items: Sequence[Any]) -> Mapping[str, Any]:
        """Inputs by name, each [b, tokens of the longest text] where it has a place for every token."""
        ...


class Passes:
    """Texts sorted by their number of tokens, the longest first, in batches.

    Sorted by characters, as the library does it, batches of 32 of Flickr8k's captions have 19 % padding; by tokens 2 %.

    Args:
        names: of the inputs that `forward` takes, in its order.
        forward: inputs -> features [b, dim or more].
        limits: positions and tokens that the network has tables for; 0 where it has none.
        dim: numbers of a feature that are used; None for all.
    """

    # Which texts share a pass, and how rows get length 1.
    facts: Mapping[str, Any] = {"order": "tokens", "unit": "float64"}

    def __init__(
        self,
        tokeniser: Tokeniser,
        names: Sequence[str],
        forward: Callable[..., Any],
        compute: Compute,
        *,
        limits: tuple[int, int],
        dim: int | None = None,
    ) -> None:
        self._tokeniser, self._names, self._forward = tokeniser, names, forward
        self._compute, self._limits, self._dim = compute, limits, dim

    def encode(self, texts: list[str]) -> Float32:
        """Unit rows [len(texts), dim] in the order of the texts."""
        rough = np.argsort([-len(text) for text in texts], kind="stable")  # counting may pad: similar lengths together
        split = self._compute.each(self._tokeniser.split, self._batches([texts[place] for place in rough]))
        lengths = np.concatenate(self._compute.each(self._tokeniser.lengths, split))
        items = [item for batch in split for item in batch]
        place = np.argsort(-lengths, kind="stable")
        sorted_rows = np.concatenate(self._compute.each(self._rows, self._batches([items[at] for at in place])))
        rows: Float32 = np.empty_like(sorted_rows)
        rows[rough[place]] = sorted_rows
        return rows

    def _batches(self, items: list[Any]) -> list[list[Any]]:
        size = self._compute.batch
        return [items[start : start + size] for start in range(0, len(items), size)]

    def _rows(self, items: Sequence[Any]) -> Float32:
        features = self._tokeniser.inputs(items)
        self._refuse_beyond(features)
        return unit(self._forward(*(features[name] for name in self._names))[:, : self._dim])

    def _refuse_beyond(self, features: Mapping[str, Any]) -> None:
        """Refuse tokens that the tables of the network do not have: torch would, OpenVINO reads zeros."""
        ids, (positions, vocabulary) = np.asarray(features.get("input_ids", ())), self._limits
        if not ids.size:
            return
        if positions and ids.ndim == 2 and ids.shape[1] > positions:
            raise IndexError(f"a text of {ids.shape[1]:,} tokens, and the network has {positions:,} positions")
        if vocabulary and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise IndexError(f"token {int(ids.max())}, and the network knows {vocabulary:,}")


class LibraryTokeniser:
    """The tokenizer of a SentenceTransformer, which gives padded tensors: texts are counted in a pass of their own."""

    def __init__(self, model: Any, prompt: str | None) -> None:
        self._model, self._prompt = model, prompt

    def split(self, texts: list[str]) -> Sequence[Any]:
        return texts

    def lengths(self, items: Sequence[Any]) -> Int64:
        mask = self.inputs(items).get("attention_mask")
        return np.array([len(text) for text in items]) if mask is None else np.asarray(mask).sum(1)

    def inputs(self, items: Sequence[Any]) -> Mapping[str, Any]:
        features: Mapping[str, Any] = self._model.preprocess(list(items), prompt=self._prompt)
        return features


class Tokens:
    """The tokenizers library alone, which transformers' fast tokenizers wrap.

    Args:
        written: the tokenizer as JSON, with its truncation and padding.
        names: of the inputs.
    """

    _PARTS: Mapping[str, str] = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

    def __init__(self, written: str, names: Sequence[str]) -> None:
        from tokenizers import Tokenizer

        tokenizer: Any = Tokenizer.from_str(written)
        padding: dict[str, Any] = tokenizer.padding
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._left, self._multiple = padding["direction"] == "left", padding.get("pad_to_multiple_of") or 1
        self._parts = {name: self._PARTS[name] for name in names}
        self._padding = {"ids": padding["pad_id"], "attention_mask": 0, "type_ids": padding["pad_type_id"]}

    def split(self, texts: list[str]) -> Sequence[Any]:
        found: Sequence[Any] = self._tokenizer.encode_batch(texts)
        return found

    def lengths(self, items: Sequence[Any]) -> Int64:
        return np.array([len(item) for item in items], np.int64)

    def inputs(self, items: Sequence[Any]) -> dict[str, Int64]:
        longest = -(-max(map(len, items)) // self._multiple) * self._multiple
        made = {}
        for name, part in self._parts.items():
            rows = np.full((len(items), longest), self._padding[part], np.int64)
            for row, item in zip(rows, items, strict=True):
                row[longest - len(item) if self._left else 0 :][: len(item)] = getattr(item, part)
            made[name] = rows
        return made


class Sentences:
    """Tensors of tokens -> sentence embeddings [b, dim], by all modules of a SentenceTransformer."""

    def __init__(self, model: Any, features: Mapping[str, Any]) -> None:
        self.model = model
        self.names = [name for name, value in features.items() if hasattr(value, "detach")]
        self._constant = {name: value for name, value in features.items() if name not in self.names}

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        made = self.model({**self._constant, **dict(zip(self.names, tensors, strict=True))})
        features: torch.Tensor = made["sentence_embedding"]
        return features


def library_passes(model: Any, compute: Compute, prompt: str | None) -> Passes:
    """Passes of a placed SentenceTransformer, with its tokenizer; `prompt` as for `sentence_tower`."""
    before = model.prompts.get(model.default_prompt_name) if prompt is None else prompt
    tokeniser = LibraryTokeniser(model, before)
    forward, names = converted(model, tokeniser, compute)
    passes = Passes(tokeniser, names, forward, compute, limits=table_sizes(model), dim=model.truncate_dim)
    model.to("meta")  # only its tokenizer is still used
    return passes


def converted(model: Any, tokeniser: LibraryTokeniser, compute: Compute) -> tuple[Callable[..., Any], list[str]]:
    """The compiled network of a SentenceTransformer, and the names of its inputs."""
    call = Sentences(model, tokeniser.inputs(["a man in blue", "two children watch from the street"]))
    example = tokeniser.inputs(["one dog runs", "a red boat waits in the quiet harbour at night"])
    return compute.forward(call, lambda: [example[name] for name in call.names], dynamic=(0, 1)), call.names


def table_sizes(model: Any) -> tuple[int, int]:
    """Number of positions and of tokens that the network of a model has; 0 where it has no table of them."""
    positions = vocabulary = 0
    for name, part in model.named_modules():
        size, last = int(getattr(part, "num_embeddings", 0) or 0), name.rpartition(".")[2]
        if last in ("position_embeddings", "position_embedding", "wpe"):
            # Families with a padding index begin to count behind it.
            positions = size - (0 if part.padding_idx is None else part.padding_idx + 1)
        elif last in ("word_embeddings", "token_embedding", "embed_tokens", "wte"):
            vocabulary = size
    return positions, vocabulary
