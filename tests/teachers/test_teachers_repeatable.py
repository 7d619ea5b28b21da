"""A teacher that gives other rows for the same items is refused: real networks, adapters, teachers of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import TeacherError
from labelgen.specs import Spec
from labelgen.stages.running import worker
from labelgen.stages.work import embed
from labelgen.teachers.adapters.vision import ImageTower
from labelgen.teachers.compute import Compute
from labelgen.teachers.probe import check_repeatable


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked autoencoder of transformers: its encoder draws a mask at random, in evaluation, too."""
    import torch
    import transformers as hf

    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    hf.ViTMAEModel(hf.ViTMAEConfig(**shape, image_size=32, patch_size=8)).save_pretrained(folder)
    hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_masked_autoencoder_is_refused(masked: Path) -> None:
    with pytest.raises(TeacherError, match=r"different rows for the same pictures(.|\n)*masked autoencoder"):
        registry.create("teacher", Spec.of("transformers", model=str(masked)), device="cpu")


def _tower(network: Any, prepare: Any) -> ImageTower:
    return ImageTower(network, prepare, None, compute=Compute("float32", 4, 4), facts={})


def _floats(image: Any) -> np.ndarray[Any, Any]:
    return np.asarray(image.resize((8, 8)), np.float32).transpose(2, 0, 1) / 255


def test_dropout_that_stays_on_is_refused() -> None:
    import torch

    class Noisy(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(pixels.flatten(1), 0.1, training=True)

    with pytest.raises(TeacherError, match="different rows for the same pictures"):
        _tower(Noisy().eval(), _floats)


def test_network_in_training_mode_is_refused() -> None:
    import torch

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.Dropout(0.2))
    with pytest.raises(TeacherError, match="different rows for the same pictures"):
        _tower(network.train(), _floats)
    assert _tower(network.eval(), _floats).dim == 16


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_random_augmentation_is_refused(share: float) -> None:
    """A flip of some pictures only: each of them is looked at twice."""
    import torch
    from torchvision.transforms import Compose, RandomHorizontalFlip

    torch.manual_seed(1)
    flip = Compose([RandomHorizontalFlip(share), _floats])
    with pytest.raises(TeacherError, match=r"prepares the same picture in different ways(.|\n)*random crops"):
        _tower(torch.nn.Flatten(), flip)


def test_dropout_in_a_text_network_is_refused(tiny_sbert: Path) -> None:
    teacher = registry.create("teacher", Spec.of("sbert", model=str(tiny_sbert)), device="cpu")
    check_repeatable(teacher, "teacher tiny")
    network = teacher._encoder._model
    network.eval = lambda: network  # the library calls it before every batch
    network.train()
    with pytest.raises(TeacherError, match=r"teacher tiny gives different rows for the same texts"):
        check_repeatable(teacher, "teacher tiny")


def test_merges_that_are_dropped_at_random_are_refused(tmp_path: Path) -> None:
    """BPE dropout is a setting of tokenizer.json, which stays on when nobody trains."""
    folder = static_embeddings(tmp_path / "static", dropout=0.5)
    with pytest.raises(TeacherError, match="different rows for the same texts"):
        registry.create("teacher", Spec.of("sbert", model=str(folder)), device="cpu")


def static_embeddings(folder: Path, dropout: float | None = None) -> Path:
    """A SentenceTransformer of one table of token embeddings, with a byte-pair tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(dropout=dropout))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = (
        "a man in blue cleans the tall windows of an old brick house while two children watch from across the street"
    )
    tokenizer.train_from_iterator([words] * 50, trainers.BpeTrainer(vocab_size=120))
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(tokenizer.get_vocab_size(), 16, generator=generator)
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


class _Outside:
    """A text teacher of another package that adds noise."""

    modalities = frozenset({"text"})
    text_block, dim = 64, 4

    def __init__(self, noise: float) -> None:
        self.noise, self.generator = noise, np.random.default_rng(0)

    def identity(self) -> Mapping[str, Any]:
        return {}

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        rows = np.array([[len(text), text.count("a"), text.count("e"), 1] for text in texts], np.float32)
        return rows + np.float32(self.noise) * self.generator.normal(size=rows.shape).astype(np.float32)


@pytest.mark.parametrize("noise", [1.0, 1e-4])
def test_a_build_refuses_teachers_of_others_too(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"quiet()": _Outside(0), "noisy()": _Outside(noise)}
    monkeypatch.setattr(worker, "teacher", made.__getitem__)
    assert embed.describe_teacher("quiet()", "text")["dim"] == 4
    with pytest.raises(TeacherError, match=r"teacher noisy\(\) gives different rows for the same texts"):
        embed.describe_teacher("noisy()", "text")


def test_whatever_an_outside_teacher_raises_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(texts: Sequence[str]) -> None:
        raise ZeroDivisionError("x" * 100_000)

    broken = SimpleNamespace(encode_texts=fail, modalities=frozenset({"text"}))
    monkeypatch.setattr(worker, "teacher", lambda spec: broken)
    with pytest.raises(TeacherError, match="ZeroDivisionError") as caught:
        embed.describe_teacher("broken()", "text")
    assert len(str(caught.value)) < 1000
