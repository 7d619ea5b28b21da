"""Pools that a network has and has not, registers, and tensors of checkpoints that are left over or missing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import TeacherError
from labelgen.specs import Spec

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PIXELS = {"image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """`registers`: DINOv2 with four; `plain`: no class token and no pooler; `pooled`: none either, with a pooling head;
    `planes`: a convolutional network."""
    import torch
    import transformers as hf

    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    registers = hf.Dinov2WithRegistersConfig(**SHAPE, **PIXELS, mlp_ratio=2, num_register_tokens=4)
    small = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
    made = {
        "registers": hf.Dinov2WithRegistersModel(registers),
        "plain": hf.IJepaModel(hf.IJepaConfig(**SHAPE, **PIXELS), add_pooling_layer=False),
        "pooled": hf.SiglipVisionModel(hf.SiglipVisionConfig(**SHAPE, **PIXELS)),
        "planes": hf.ConvNextModel(hf.ConvNextConfig(**small)),
    }
    with torch.no_grad():  # as trained ones are: far from their initial zeros
        made["registers"].embeddings.register_tokens.normal_()
    for name, network in made.items():
        network.save_pretrained(root / name)
        hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / name)
    return {name: root / name for name in made}


def create(folder: Path, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("transformers", model=str(folder), **arguments), device="cpu")


def pictures() -> list[Any]:
    from PIL import Image

    noise = np.random.default_rng(3).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    return [Image.fromarray(pixels) for pixels in noise]


def rows(teacher: Any) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = teacher.encode_images([teacher.prepare_image(picture) for picture in pictures()])
    return made


def tokens(folder: Path, network: Any) -> np.ndarray[Any, Any]:
    """The last hidden states of the library's own call."""
    import torch
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=pictures(), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states: np.ndarray[Any, Any] = network.eval()(pixel_values=pixels).last_hidden_state.double().numpy()
    return states


def unit(values: Any) -> np.ndarray[Any, Any]:
    made: np.ndarray[Any, Any] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return made


def test_registers_are_not_averaged(networks: Mapping[str, Path]) -> None:
    """Class token, four registers, sixteen patches: seventeen of them make the mean."""
    from transformers import Dinov2WithRegistersModel

    states = tokens(networks["registers"], Dinov2WithRegistersModel.from_pretrained(networks["registers"]))
    assert states.shape == (3, 21, 32)
    teacher = create(networks["registers"], pool="mean")
    expected = unit(states[:, [0, *range(5, 21)]].mean(axis=1))
    np.testing.assert_allclose(rows(teacher), expected, atol=2e-6)
    assert np.abs(unit(states.mean(axis=1)) - expected).max() > 1e-3
    assert teacher.identity()["pool"] == "mean without 4 registers"  # rows of a store of before are others
    assert create(networks["registers"], pool="cls").identity()["pool"] == "cls"


def test_registers_of_timm_are_not_averaged() -> None:
    """timm's own average pooling leaves out what is not a patch."""
    import timm
    import torch

    torch.manual_seed(0)
    network = timm.create_model("test_vit", reg_tokens=4, global_pool="avg", num_classes=0, class_token=True).eval()
    pixels = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        states = network.forward_features(pixels)
        pooled = network(pixels)
        assert states.shape[1] == 1 + 4 + 100
        expected = network.fc_norm(states[:, 5:].mean(1))
    torch.testing.assert_close(pooled, expected)


@pytest.mark.parametrize("name", ["plain", "pooled", "planes"])
def test_class_token_that_is_not_there_is_refused(name: str, networks: Mapping[str, Path]) -> None:
    with pytest.raises(TeacherError, match=r"has no class token for pool='cls'"):
        create(networks[name], pool="cls")


def test_first_patch_is_no_default(networks: Mapping[str, Path]) -> None:
    with pytest.raises(TeacherError, match=r"has no class token for pool='default'(.|\n)*pool='mean'"):
        create(networks["plain"])


def test_pools_of_networks_without_class_token(networks: Mapping[str, Path]) -> None:
    from transformers import IJepaModel

    states = tokens(networks["plain"], IJepaModel.from_pretrained(networks["plain"], add_pooling_layer=False))
    np.testing.assert_allclose(rows(create(networks["plain"], pool="mean")), unit(states.mean(axis=1)), atol=2e-6)
    assert create(networks["pooled"]).dim == create(networks["planes"]).dim == 32


def test_planes_are_no_tokens(networks: Mapping[str, Path]) -> None:
    with pytest.raises(TeacherError, match=r"no tokens for pool='mean'(.|\n)*pool='default'"):
        create(networks["planes"], pool="mean")


@pytest.mark.parametrize("names", [["classifier.weight"], ["classifier.weight", "decoder.x", "decoder.y"]])
def test_tensors_left_over_are_told(names: Sequence[str], tiny_vision: Mapping[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_vision["dinov2"], tmp_path / "more"))
    state = load_file(folder / "model.safetensors")
    save_file({**state, **{name: torch.ones(2) for name in names}}, folder / "model.safetensors", {"format": "pt"})
    (note,) = create(folder).notes
    assert note.startswith(f"{len(names)} tensor")
    assert "not used of the checkpoint" in note
    assert names[0] in note
    assert create(tiny_vision["dinov2"]).notes == ()


def test_tensors_of_another_shape_are_refused(tiny_vision: Mapping[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_vision["dinov2"], tmp_path / "shape"))
    state = load_file(folder / "model.safetensors")
    save_file({**state, "layernorm.weight": torch.ones(7)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(TeacherError):
        create(folder)


def test_classifier_of_a_timm_checkpoint_is_told(tiny_timm: Mapping[str, Path]) -> None:
    spec = Spec.of("timm", model="test_vit", checkpoint=str(tiny_timm["test_vit"]))
    (note,) = registry.create("teacher", spec, device="cpu").notes
    assert "2 tensors are not used of the checkpoint" in note
    assert "'head.bias', 'head.weight'" in note


def test_long_names_of_models_are_cut() -> None:
    for spec in (
        Spec.of("timm", model="x" * 50_000),
        Spec.of("transformers", model="x" * 50_000),
        Spec.of("open_clip", model="local-dir:" + "x" * 50_000),
        Spec.of("timm", model="test_vit", checkpoint="x" * 50_000),
    ):
        with pytest.raises(TeacherError) as caught:
            registry.create("teacher", spec, device="cpu")
        assert len(str(caught.value)) < 2000
