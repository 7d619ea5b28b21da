"""The sentence-transformers library as text teachers. Models that bring code are refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.errors import MissingExtraError, TeacherError, requires, shown, some
from labelgen.fingerprint import canonical, fingerprint
from labelgen.registry import unknown
from labelgen.teachers.adapters.sentence_passes import SentenceEncoder, library_passes
from labelgen.teachers.base import Precision, Runtime, TeacherInfo, described
from labelgen.teachers.checks import unit_rows
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.failures import foreign, require_least
from labelgen.teachers.identity import file_settings, tokenizer_digest
from labelgen.teachers.probe import probe_texts
from labelgen.teachers.text import PROBES, text_step
from labelgen.teachers.weights import loading, reported, weight_hash, without_bars
from labelgen.types import Float32, Modality

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
    """A model of sentences as a text teacher.

    Attributes:
        notes: sentences for the user of the build.
    """

    modalities: frozenset[Modality] = frozenset({"text"})

    def __init__(
        self,
        encoder: SentenceEncoder,
        facts: Mapping[str, Any],
        *,
        text: str,
        compute: Compute,
        notes: Sequence[str] = (),
    ) -> None:
        """`facts` of identity; `max_tokens` is among them."""
        self._step, self._facts = text_step(text), {"text": text, **facts}
        self._encoder, self._compute = encoder, compute
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
        return {**self._facts, **self._encoder.facts, "compute": canonical(self._compute), "dim": self.dim}

    def _encode(self, texts: list[str]) -> Float32:
        with self._compute.running(self._advice(texts)):
            return self._encoder.encode(texts)

    def _advice(self, texts: Sequence[str]) -> str:
        """Advice where the network fails: mostly a text longer than its positions."""
        limit = self._facts["max_tokens"]
        return (
            f"the longest of these {len(texts)} texts has {max(map(len, texts)):,} characters, and the model takes "
            f"{'texts of any length' if limit is None else f'{limit:,} tokens'}: if its network has fewer positions, "
            "give their number as max_tokens="
        )


def sentence_tower(
    model: Any,
    *,
    text: str,
    compute: Compute,
    prompt: str | None = None,
    facts: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> SentenceTower:
    """The teacher of a SentenceTransformer.

    `prompt` is the text before every text, None for the model's default; `facts` are more facts of identity.
    """
    text_step(text)
    with foreign("sentence-transformers cannot describe the model"):
        found = {**model_facts(model, prompt), **(facts or {})}
    placed = compute.place(model)
    kind = _LibraryEncoder if compute.runtime == "torch" else library_passes
    return SentenceTower(kind(placed, compute, prompt), found, text=text, compute=compute, notes=notes)


class _LibraryEncoder:
    """The library's own `encode`, with torch."""

    facts: Mapping[str, Any] = {}

    def __init__(self, model: Any, compute: Compute, prompt: str | None) -> None:
        self._model, self._compute, self._prompt = model, compute, prompt

    def encode(self, texts: list[str]) -> Float32:
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


def load_sentences(
    model: str,
    *,
    text: str,
    compute: Compute,
    prompt: str | None = None,
    max_tokens: int | None = None,
) -> SentenceTower:
    """A model by hub name or local folder; arguments are checked before anything is read.

    Args:
        prompt: name of a prompt that the model lists, or the text of one; "" for none; None for the model's default.
        max_tokens: longer texts are truncated to so many tokens; None for the model's own limit.

    Raises:
        MissingExtraError: sentence-transformers is not installed, or its release is too old.
        TeacherError: the model cannot be loaded.
        UnknownNameError: an unknown text step, or a prompt that the model does not list.
        ConfigError: max_tokens is not a number of tokens.
    """
    text_step(text)
    if max_tokens is not None:
        require_least("max_tokens", max_tokens)
    library = _library(model)
    with reported() as checkpoint:
        network = load_model(model)
    # Pooler weights of the inner transformer never reach the rows: pooling is a separate module.
    checkpoint.refuse_random(model, lambda name: "pooler." in name)
    chosen = _prompt_text(network, model, prompt)
    with loading("sentence-transformers", model):
        if max_tokens is not None:
            _limit(network, max_tokens)
        facts: dict[str, Any] = {"settings": _file_settings(library, model)}
        if (tokenizer := getattr(network, "tokenizer", None)) is not None:
            facts["tokenizer"] = tokenizer_digest(tokenizer)
    notes = [*checkpoint.notes(model), *_prompt_notes(network, model, prompt), *_length_notes(network, model)]
    return sentence_tower(network, text=text, compute=compute, prompt=chosen, facts=facts, notes=notes)


def load_model(model: str) -> Any:
    """The SentenceTransformer of a hub name or local folder, on the CPU; raises as `load_sentences` does."""
    library = _library(model)
    with loading("sentence-transformers", model), without_bars():
        return library.SentenceTransformer(model, device="cpu", trust_remote_code=False)


def _library(model: str) -> Any:
    with requires("sentence-transformers", "build", f"the text teacher {shown(model)}"):
        import sentence_transformers as library
    _refuse_old(str(library.__version__))
    return library


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


def model_facts(model: Any, prompt: str | None) -> dict[str, Any]:
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
