"""The sentence-transformers library as text teachers. Models that bring code are refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.errors import MissingExtraError, TeacherError, requires, shown, some
from labelgen.fingerprint import canonical, fingerprint
from labelgen.registry import unknown
from labelgen.teachers.base import Precision, Runtime, TeacherInfo, described
from labelgen.teachers.checks import unit_rows
from labelgen.teachers.compute import Compute, unit
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.failures import foreign, require_least
from labelgen.teachers.identity import file_settings, tokenizer_digest
from labelgen.teachers.probe import probe_texts
from labelgen.teachers.text import PROBES, text_step
from labelgen.teachers.weights import loading, reported, weight_hash, without_bars
from labelgen.types import Float32, Int64, Modality

if TYPE_CHECKING:
    import torch

#: Releases before this one ran the Python files of a local model folder unconditionally.
_LEAST = 6
#: Files with settings of a module, in its folder; the third kind has one name for each architecture.
_SETTINGS = ("config.json", "*tokenizer_config.json", "sentence_*_config.json")


@described(
    TeacherInfo(
        summary="any sentence-transformers model, by hub name or local folder",
        modalities=("text",),
        example="sbert(model='sentence-transformers/all-mpnet-base-v2', text='cusa')",
        offline="with a local folder",
    )
)
@with_runtime
def sbert(
    *,
    model: str,
    text: str = "none",
    prompt: str | None = None,
    max_tokens: int | None = None,
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 2048,
    runtime: Runtime = "torch",
    device: str = "cpu",
) -> SentenceTower:
    """A text teacher.

    Args:
        model: hub name or local folder of a SentenceTransformer (a plain transformers folder gets mean pooling).
        text: preprocessing step of the captions, see `labelgen.teachers.text`.
        prompt: what comes before every text: the name of a prompt that the model lists, or a text such as `query: `;
            empty for none; otherwise the model's default prompt, if it has one.
        max_tokens: longer texts are truncated to so many tokens; otherwise the model's own limit.
        precision, batch, block, runtime, device: see `labelgen.teachers.compute.Compute`. The library sorts
            the texts of a block by length, so that a batch has little padding: against one call for all of Flickr30k's
            captions blocks of 1,024 / 2,048 / 4,096 cost 2.6 / 1.4 / 0.7 % more tokens.

    Raises:
        TeacherError: the model cannot be loaded, lacks weights, or gives other rows when it encodes a text again.
        UnknownNameError: an unknown text step or precision, or a prompt that the model does not list.
    """
    compute = Compute(precision, batch, block, device, runtime)
    return load_sentences(model, text=text, compute=compute, prompt=prompt, max_tokens=max_tokens)


class SentenceTower:
    """A sentence-transformers model as a text teacher.

    Attributes:
        notes: sentences for the user of the build.
    """

    modalities: frozenset[Modality] = frozenset({"text"})

    def __init__(
        self,
        model: Any,
        *,
        text: str,
        compute: Compute,
        prompt: str | None = None,
        facts: Mapping[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """`prompt` is the text before every text, None for the model's default; `facts` are more facts of identity."""
        self._step = text_step(text)
        self._compute, self._prompt = compute, prompt
        with foreign("sentence-transformers cannot describe the model"):
            self._facts = {"text": text, **_facts(model, prompt), **(facts or {})}
        self._model = compute.place(model)
        self._passes = _Passes(self._model, compute, prompt) if compute.runtime == "openvino" else None
        self.text_block, self.text_batch, self.notes = compute.block, compute.batch, tuple(notes)
        self.runtime = compute.runtime
        self.dim = int(probe_texts(self._encode, "the text teacher", compute.device).shape[1])

    def with_text(self, text: str) -> SentenceTower:
        """The same network behind another text step."""
        other = copy(self)
        other._step, other._facts = text_step(text), {**self._facts, "text": text}
        return other

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        return self._encode([self._step(text) for text in texts])

    def identity(self) -> Mapping[str, Any]:
        order = {"order": "tokens"} if self._passes is not None else {}  # which texts share a pass
        return {**self._facts, **order, "compute": canonical(self._compute), "dim": self.dim}

    def _encode(self, texts: list[str]) -> Float32:
        with self._compute.running(self._advice(texts)):
            if self._passes is not None:
                return self._passes.encode(texts)
            rows: Float32 = self._model.encode(
                texts,
                prompt=self._prompt,
                batch_size=self._compute.batch,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            ).astype(np.float32, copy=False)
        # bfloat16 lengths are rounded to three digits: made right here; float32 rows stay as the library gives them.
        return rows if self._compute.precision == "float32" else unit_rows(rows)

    def _advice(self, texts: Sequence[str]) -> str:
        """Advice where the network fails: mostly a text longer than its positions."""
        limit = self._facts["max_tokens"]
        return (
            f"the longest of these {len(texts)} texts has {max(map(len, texts)):,} characters, and the model takes "
            f"{'texts of any length' if limit is None else f'{limit:,} tokens'}: if its network has fewer positions, "
            "give their number as max_tokens="
        )


class _Sentences:
    """Tensors of tokens -> sentence embeddings [b, dim], by all modules of a model."""

    def __init__(self, model: Any, features: Mapping[str, Any]) -> None:
        self.model = model
        self.names = [name for name, value in features.items() if hasattr(value, "detach")]
        self._constant = {name: value for name, value in features.items() if name not in self.names}

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        made = self.model({**self._constant, **dict(zip(self.names, tensors, strict=True))})
        features: torch.Tensor = made["sentence_embedding"]
        return features


class _Passes:
    """The forward passes of `SentenceTransformer.encode`, several at once, by a compiled network.

    Texts are sorted by their number of tokens, the longest first (there by characters: batches of 32 of Flickr8k's
    captions have 19 % padding by characters and 2 % by tokens). A batch is tokenised in the thread that runs it.
    """

    def __init__(self, model: Any, compute: Compute, prompt: str | None) -> None:
        self._model, self._compute = model, compute
        self._prompt = model.prompts.get(model.default_prompt_name) if prompt is None else prompt
        call = _Sentences(model, self._features(["a man in blue", "two children watch from the street"]))
        self._names, self._limits = call.names, _limits(model)
        example = self._features(["one dog runs", "a red boat waits in the quiet harbour at night"])
        self._forward = compute.forward(call, lambda: [example[name] for name in call.names], dynamic=(0, 1))
        model.to("meta")  # only its tokenizer is still used

    def encode(self, texts: Sequence[str]) -> Float32:
        """Unit rows [len(texts), dim] in the order of the texts."""
        rough = np.argsort([-len(text) for text in texts], kind="stable")  # so that counting pads little, too
        lengths = np.concatenate(self._compute.each(self._lengths, self._batches(texts, rough)))
        order = rough[np.argsort(-lengths, kind="stable")]
        sorted_rows: Float32 = np.concatenate(self._compute.each(self._rows, self._batches(texts, order)))
        rows = np.empty_like(sorted_rows)
        rows[order] = sorted_rows
        return rows

    def _batches(self, texts: Sequence[str], order: Int64) -> list[list[str]]:
        size = self._compute.batch
        return [[texts[place] for place in order[start : start + size]] for start in range(0, len(order), size)]

    def _lengths(self, texts: list[str]) -> Int64:
        """Tokens of each text; characters where the model masks none (static embeddings, which pad nothing)."""
        mask = self._features(texts).get("attention_mask")
        counts: Int64 = np.array([len(text) for text in texts]) if mask is None else mask.sum(1).numpy()
        return counts

    def _rows(self, texts: list[str]) -> Float32:
        features = self._features(texts)
        self._refuse_beyond(features)
        made = self._forward(*(features[name] for name in self._names))
        return unit(made[:, : self._model.truncate_dim])

    def _features(self, texts: list[str]) -> Mapping[str, Any]:
        features: Mapping[str, Any] = self._model.preprocess(texts, prompt=self._prompt)
        return features

    def _refuse_beyond(self, features: Mapping[str, Any]) -> None:
        """Refuse tokens that the tables of the network do not have: torch would, OpenVINO reads zeros."""
        ids, (positions, vocabulary) = features.get("input_ids"), self._limits
        if ids is None or not ids.numel():
            return
        if positions and ids.ndim == 2 and ids.shape[1] > positions:
            raise IndexError(f"a text of {ids.shape[1]:,} tokens, and the network has {positions:,} positions")
        if vocabulary and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise IndexError(f"token {int(ids.max())}, and the network knows {vocabulary:,}")


def _limits(model: Any) -> tuple[int, int]:
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


def load_sentences(
    model: str,
    *,
    text: str,
    compute: Compute,
    prompt: str | None = None,
    max_tokens: int | None = None,
    bundled: bool = False,
) -> SentenceTower:
    """A model by hub name or local folder; arguments are checked before anything is read.

    Args:
        prompt: name of a prompt that the model lists, or the text of one; "" for none; None for the model's default.
        max_tokens: longer texts are truncated to so many tokens; None for the model's own limit.
        bundled: the model is that of a package of one version: its settings are known, and not recorded again.

    Raises:
        MissingExtraError: sentence-transformers is not installed, or its release is too old.
        TeacherError: the model cannot be loaded.
        UnknownNameError: an unknown text step, or a prompt that the model does not list.
        ConfigError: max_tokens is not a number of tokens.
    """
    text_step(text)
    if max_tokens is not None:
        require_least("max_tokens", max_tokens)
    with requires("sentence-transformers", "build", f"the text teacher {shown(model)}"):
        import sentence_transformers as library
    _refuse_old(str(library.__version__))
    with loading("sentence-transformers", model), without_bars(), reported() as checkpoint:
        network = library.SentenceTransformer(model, device="cpu", trust_remote_code=False)
        if bundled:
            return SentenceTower(network, text=text, compute=compute)
        if max_tokens is not None:
            _limit(network, max_tokens)
    # Pooler weights of the inner transformer never reach the rows: pooling is a separate module.
    checkpoint.refuse_random(model, lambda name: "pooler." in name)
    chosen = _prompt_text(network, model, prompt)
    with loading("sentence-transformers", model):
        facts: dict[str, Any] = {"settings": _file_settings(library, model)}
        if (tokenizer := getattr(network, "tokenizer", None)) is not None:
            facts["tokenizer"] = tokenizer_digest(tokenizer)
    notes = [*checkpoint.notes(model), *_prompt_notes(network, model, prompt), *_length_notes(network, model)]
    return SentenceTower(network, text=text, compute=compute, prompt=chosen, facts=facts, notes=notes)


def _refuse_old(version: str) -> None:
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < _LEAST:
        raise MissingExtraError(
            f"sentence-transformers {version} is too old: it runs code that comes with a local model folder",
            expected=f"release {_LEAST} or later",
            todo=f'pip install "sentence-transformers>={_LEAST}"',
        )


def _limit(network: Any, max_tokens: int) -> None:
    """Truncate at `max_tokens`; a model without positions (static embeddings) has nothing to set."""
    network.max_seq_length = max_tokens
    if network.max_seq_length != max_tokens:
        raise TeacherError("this model has no limit of tokens that could be set", todo="leave out max_tokens")


def _prompt_text(network: Any, model: str, prompt: str | None) -> str | None:
    """The text of a prompt given by name or as text.

    Raises:
        UnknownNameError: a plain word that is no name of a prompt: as a text it would run into the caption.
    """
    listed: dict[str, str] = network.prompts
    if prompt is None or prompt == "":
        return prompt
    if prompt in listed:
        return listed[prompt] or ""
    if re.fullmatch(r"[\w.-]+", prompt) and prompt not in listed.values():
        raise unknown(f"prompt of {shown(model)} (and a text of one ends in a space or a sign)", prompt, listed)
    return prompt


def _prompt_notes(network: Any, model: str, prompt: str | None) -> list[str]:
    """A sentence where the model lists prompts and none was chosen, not even by its author."""
    listed = {name: text for name, text in network.prompts.items() if text}
    if not listed or prompt is not None or network.prompts.get(network.default_prompt_name):
        return []
    names = some(f"{name}: {text}" for name, text in listed.items())
    return [
        f"{shown(model)} lists prompts and none was chosen: {names}; prompt='{next(iter(listed))}' takes one, "
        "prompt='' says that none is wanted"
    ]


def _length_notes(network: Any, model: str) -> list[str]:
    """A sentence where the model takes more tokens than its network has positions."""
    config = getattr(network, "config", None)
    positions, limit = getattr(config, "max_position_embeddings", None), network.max_seq_length
    if not isinstance(positions, int) or limit is None or positions < 1 or limit <= positions:
        return []
    return [
        f"{shown(model)} takes {limit:,} tokens, and its network has {positions:,} positions: a longer text may end "
        f"the build; max_tokens={positions} truncates it"
    ]


def _facts(model: Any, prompt: str | None) -> dict[str, Any]:
    """Facts that decide the rows beside precision and batch, named independently of the library's release."""
    state, limit = model.state_dict(), model.max_seq_length
    ids = model.preprocess(list(PROBES)).get("input_ids")
    return {
        # Pooler weights of the inner transformer never reach the rows (pooling is a separate module), and where the
        # checkpoint lacks them the library fills in random numbers.
        "weights": weight_hash(state, without=[name for name in state if ".pooler." in name]),
        "modules": [type(module).__name__ for module in model],
        "pooling": [str(module.pooling_mode) for module in model if type(module).__name__ == "Pooling"],
        "tokens": fingerprint(None if ids is None else np.asarray(ids).tolist()),
        "max_tokens": limit if limit is None or math.isfinite(limit) else None,  # static embeddings take any length
        "prompt": model.prompts.get(model.default_prompt_name, "") if prompt is None else prompt,
    }


def _file_settings(library: Any, model: str) -> dict[str, Any]:
    """Settings in the files of a model, by file: of its networks and of its modules; the same in every folder."""
    listed = library.util.load_file_path(model, "modules.json", local_files_only=True)
    found = listed or library.util.load_file_path(model, "config.json", local_files_only=True)
    if found is None:
        return {}
    root, folders = Path(found).parent, [""]
    if listed:
        folders = [str(module["path"]) for module in json.loads(Path(listed).read_text(encoding="utf-8"))]
    files = {path for folder in folders for form in _SETTINGS for path in (root / folder).glob(form)}
    return {path.relative_to(root).as_posix(): file_settings(path) for path in sorted(files)}
