"""Text teachers by name: any model of the sentence-transformers library, from a hub or a local folder."""

from __future__ import annotations

from labelgen.teachers.adapters.sentences import SentenceTower, load_sentences
from labelgen.teachers.base import Precision, TeacherInfo, described
from labelgen.teachers.compute import Compute


@described(
    TeacherInfo(
        summary="any sentence-transformers model, by hub name or local folder",
        modalities=("text",),
        example="sbert(model='sentence-transformers/all-mpnet-base-v2', text='cusa')",
        offline="with a local folder",
    )
)
def sbert(
    *,
    model: str,
    text: str = "none",
    prompt: str | None = None,
    max_tokens: int | None = None,
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 2048,
    device: str = "cpu",
) -> SentenceTower:
    """A text teacher.

    Args:
        model: hub name or local folder of a SentenceTransformer (a plain transformers folder gets mean pooling).
        text: preprocessing step of the captions, see `labelgen.teachers.text`.
        prompt: what comes before every text: the name of a prompt that the model lists, or a text such as `query: `;
            empty for none; otherwise the model's default prompt, if it has one.
        max_tokens: longer texts are truncated to so many tokens; otherwise the model's own limit.
        precision: dtype of weights and activations; rows are float32.
        batch: texts in one forward pass.
        block: texts in one call. The library sorts them by length, so that a batch has little padding: against one
            call for all of Flickr30k's captions blocks of 1,024 / 2,048 / 4,096 cost 2.6 / 1.4 / 0.7 % more tokens.
        device: any torch device.

    Raises:
        TeacherError: the model cannot be loaded, lacks weights, or gives other rows when it encodes a text again.
        UnknownNameError: an unknown text step or precision, or a prompt that the model does not list.
    """
    compute = Compute(precision, batch, block, device)
    return load_sentences(model, text=text, compute=compute, prompt=prompt, max_tokens=max_tokens)
