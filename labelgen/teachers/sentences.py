"""The sentence-transformers library as text teachers.

What its major releases renamed is not used here (`sentences=` -> `inputs=`, `get_*_dimension`): the first argument of
`encode` is given by position, and the dimension is read off a row. Models with code of their own are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import numpy as np

from labelgen.errors import missing_extra
from labelgen.fingerprint import canonical, fingerprint
from labelgen.teachers.checks import unit_rows
from labelgen.teachers.compute import Compute
from labelgen.teachers.text import PROBES, text_step
from labelgen.teachers.weights import loading, weight_hash, without_bars
from labelgen.types import Float32, Modality


class SentenceTower:
    """A sentence-transformers model as a text teacher."""

    modalities: frozenset[Modality] = frozenset({"text"})

    def __init__(self, model: Any, *, text: str, compute: Compute) -> None:
        self._step = text_step(text)
        self._compute = compute
        self._facts = {"text": text, **_facts(model)}
        self._model = compute.place(model)
        self.text_block = compute.block
        self.dim = int(self._encode(["a"]).shape[1])

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
        return {**self._facts, "compute": canonical(self._compute), "dim": self.dim}

    def _encode(self, texts: list[str]) -> Float32:
        with self._compute.running():
            rows: Float32 = self._model.encode(
                texts,
                batch_size=self._compute.batch,
                convert_to_numpy=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            ).astype(np.float32, copy=False)
        # bfloat16 lengths are rounded to three digits: made right here; float32 rows stay as the library gives them.
        return rows if self._compute.precision == "float32" else unit_rows(rows)


def load_sentences(model: str, *, text: str, compute: Compute) -> SentenceTower:
    """A model by hub name or local folder; the text step is checked before anything is read.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        TeacherError: the model cannot be loaded.
        UnknownNameError: an unknown text step.
    """
    text_step(text)
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise missing_extra("sentence-transformers", "build", f"the text teacher {model!r}") from error
    with loading("sentence-transformers", model), without_bars():
        network = SentenceTransformer(model, device="cpu", trust_remote_code=False)
    return SentenceTower(network, text=text, compute=compute)


def _facts(model: Any) -> dict[str, Any]:
    """What decides the rows beside precision and batch, in words that do not depend on the library's release."""
    state = model.state_dict()
    return {
        # Pooler weights of the inner transformer never reach the rows (pooling is a module of its own), and where the
        # checkpoint lacks them the library fills in random numbers.
        "weights": weight_hash(state, without=[name for name in state if ".pooler." in name]),
        "modules": [type(module).__name__ for module in model],
        "pooling": [_pooling(module) for module in model if type(module).__name__ == "Pooling"],
        "tokens": _token_hash(model),
        "max_tokens": model.max_seq_length,
        "prompt": model.prompts.get(model.default_prompt_name, ""),
    }


def _pooling(module: Any) -> str:
    """`mean`, `cls` ...: an attribute since release 6, a method before."""
    mode = getattr(module, "pooling_mode", None) or module.get_pooling_mode_str()
    return str(mode)


def _token_hash(model: Any) -> str:
    """Fingerprint of the token ids of the probe texts: changes with vocabulary, normalisation and truncation."""
    tokenise = getattr(model, "preprocess", None) or model.tokenize  # renamed in release 6
    ids = tokenise(list(PROBES)).get("input_ids")
    return fingerprint(None if ids is None else np.asarray(ids).tolist())
