"""Tiny networks with fixed random weights, made once a session: every adapter is tested offline, in seconds."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain transformers folder: BERT with 2 layers of 32, one token per character, 64 tokens at most."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_bert")
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer = BertTokenizerFast(vocab=vocabulary, model_max_length=64)
    assert tokenizer.tokenize("dog") == ["d", "##o", "##g"]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sbert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a SentenceTransformer folder with mean pooling."""
    from sentence_transformers import SentenceTransformer

    folder = tmp_path_factory.mktemp("tiny_sbert")
    SentenceTransformer(str(tiny_bert), device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints, classifier included, of two of timm's networks for tests."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_timm")
    for name in ("test_vit", "test_efficientnet"):
        torch.manual_seed(0)
        save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """transformers folders: `vit` (saved without its pooler), `dinov2`, `clip`, each with an image processor."""
    import torch
    import transformers as hf

    root = tmp_path_factory.mktemp("tiny_vision")
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    pixels = {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    networks = {
        "vit": hf.ViTModel(hf.ViTConfig(**shape, **pixels), add_pooling_layer=False),
        "dinov2": hf.Dinov2Model(hf.Dinov2Config(**shape, **pixels, mlp_ratio=2)),
        "clip": hf.CLIPModel(
            hf.CLIPConfig(
                text_config={**shape, "vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
                vision_config={**shape, **pixels},
                projection_dim=24,
            )
        ),
    }
    square = {"height": 32, "width": 32}
    processors = {
        "vit": hf.ViTImageProcessor(size=square),
        "dinov2": hf.BitImageProcessor(size={"shortest_edge": 40}, crop_size=square),
        "clip": hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=square),
    }
    for name, network in networks.items():
        network.save_pretrained(root / name)
        processors[name].save_pretrained(root / name)
    return {name: root / name for name in networks}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An open_clip folder: two towers of width 32 in a space of 24."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("tiny_clip")
    shape = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    network = open_clip.CLIP(**shape)
    torch.save(network.state_dict(), folder / "open_clip_pytorch_model.bin")
    config = {"model_cfg": shape, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
