"""Image adapters of torch, against forward passes with the libraries' own preprocessing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import ConfigError, SpecError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.adapters.vision import without_ends
from labelgen.teachers.base import ImageTeacher
from labelgen.teachers.packages import lite_file
from labelgen.testing.teachers import ImageTeacherSuite
from labelgen.types import Float32


def unit(features: Any) -> Float32:
    rows = features.detach().double().numpy()
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class _Timm(ImageTeacherSuite):
    name: str

    @pytest.fixture(autouse=True)
    def _checkpoints(self, tiny_timm: Mapping[str, Path]) -> None:
        self.checkpoints = tiny_timm

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("timm", **{"model": self.name, "checkpoint": str(self.checkpoints[self.name]), **changes})

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        """timm's own transform, image by image, and its plain forward pass."""
        import timm
        import torch

        network = timm.create_model(self.name, num_classes=0, checkpoint_path="").eval()
        network.load_state_dict(timm.models.load_state_dict(str(self.checkpoints[self.name])), strict=False)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
        with torch.inference_mode():
            return unit(torch.cat([network(transform(image)[None]) for image in images]))


class TestTimmViT(_Timm):
    name = "test_vit"

    def variants(self) -> Mapping[str, Spec]:
        other = "test_efficientnet"
        return {
            "weights": Spec.of("timm", model=other, checkpoint=str(self.checkpoints[other])),
            "precision": self.spec(precision="bfloat16"),
            "batch": self.spec(batch=2),
            "block": self.spec(block=7),
        }

    def test_is_an_image_teacher(self) -> None:
        assert isinstance(self.teacher(), ImageTeacher)
        assert self.teacher().modalities == {"image"}

    def test_decoding_threads_hand_over_bytes(self) -> None:
        prepared = self.teacher().prepare_image(self.images()[0])
        assert prepared.dtype == np.uint8
        assert prepared.shape[2] == 3

    def test_bfloat16_is_near(self) -> None:
        teacher = self.make(self.spec(precision="bfloat16"))
        rows = teacher.encode_images([teacher.prepare_image(image) for image in self.images()])
        self.check_unit_rows(rows, 4)
        assert (rows * self.rows(self.images())).sum(1).min() > 0.999

    def test_checkpoint_of_another_network_is_refused(self) -> None:
        with pytest.raises(TeacherError, match=r"does not have the weights|cannot load"):
            self.make(self.spec(checkpoint=str(self.checkpoints["test_efficientnet"])))

    def test_missing_checkpoint(self) -> None:
        with pytest.raises(TeacherError, match=r"timm cannot load '/there/is/none\.safetensors'"):
            self.make(self.spec(checkpoint="/there/is/none.safetensors"))


class TestTimmEfficientNet(_Timm):
    name = "test_efficientnet"


class _Transformers(ImageTeacherSuite):
    name: str

    @pytest.fixture(autouse=True)
    def _folders(self, tiny_vision: Mapping[str, Path]) -> None:
        self.folder = tiny_vision[self.name]

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("transformers", **{"model": str(self.folder), **changes})

    def pixels(self, images: Sequence[Any]) -> Any:
        import torch
        from transformers import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(self.folder)
        return torch.cat([processor(images=image, return_tensors="pt")["pixel_values"] for image in images])


class TestViT(_Transformers):
    """Its checkpoint has no pooler: the library would fill in random numbers, so the first token is taken."""

    name = "vit"

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        from transformers import ViTModel

        network = ViTModel.from_pretrained(self.folder, add_pooling_layer=False).eval()
        return unit(network(pixel_values=self.pixels(images)).last_hidden_state[:, 0])

    def test_mean_of_tokens(self) -> None:
        from transformers import ViTModel

        teacher = self.make(self.spec(pool="mean"))
        images = self.images()
        network = ViTModel.from_pretrained(self.folder, add_pooling_layer=False).eval()
        expected = unit(network(pixel_values=self.pixels(images)).last_hidden_state.mean(1))
        self.compare(teacher.encode_images([teacher.prepare_image(image) for image in images]), expected)
        assert teacher.identity() != self.teacher().identity()

    def test_checkpoint_without_a_layer_is_refused(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        folder = Path(shutil.copytree(self.folder, tmp_path / "vit"))
        state = load_file(folder / "model.safetensors")
        gone = next(name for name in state if "layer.1" in name or "layers.1" in name)
        save_file({name: tensor for name, tensor in state.items() if name != gone}, folder / "model.safetensors")
        with pytest.raises(TeacherError, match="lacks weights, which would be random"):
            self.make(self.spec(model=str(folder)))


class TestDinov2(_Transformers):
    name = "dinov2"

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        from transformers import Dinov2Model

        network = Dinov2Model.from_pretrained(self.folder).eval()
        return unit(network(pixel_values=self.pixels(images)).pooler_output)


class TestClipVision(_Transformers):
    name = "clip"

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        """The projection of the pooled output, written out."""
        from transformers import CLIPModel

        network = CLIPModel.from_pretrained(self.folder).eval()
        pooled = network.vision_model(pixel_values=self.pixels(images)).pooler_output
        return unit(network.visual_projection(pooled))


class TestEfficientNetLite(ImageTeacherSuite):
    tolerance = 5e-5  # one channel is .93 of a grey image's row: a relative 5e-5 of it

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("efficientnet_lite", **{"size": 0, **changes})

    def variants(self) -> Mapping[str, Spec]:
        return {"size": self.spec(size=1), "precision": self.spec(precision="bfloat16")}

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        """Preprocessing in words of PIL, weights renamed by timm itself, layers called one after the other."""
        import timm
        import torch
        from PIL import Image

        network = timm.create_model("tf_efficientnet_lite0").eval()
        timm.models.load_checkpoint(network, str(lite_file(0)), remap=True)
        rows = []
        for image in images:
            side = max(1, min(image.size) * 224 // 256)
            left, top = (image.width - side + 1) // 2, (image.height - side + 1) // 2
            square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
            pixels = torch.tensor((np.asarray(square, dtype=np.float32) - 127) / 128).permute(2, 0, 1)
            with torch.inference_mode():
                rows.append(network.forward_features(pixels[None]).mean((2, 3)))
        return unit(torch.cat(rows))

    def test_known_facts(self) -> None:
        assert self.teacher().dim == 1280
        assert self.teacher().prepare_image(self.images()[0]).shape == (224, 224, 3)

    def test_no_such_size(self) -> None:
        with pytest.raises(ConfigError, match="0, 1 or 2"):
            self.make(self.spec(size=3))


@pytest.mark.parametrize(
    "spec",
    [
        "timm(model='resnet18.a1_in1k')",
        "timm(model='there_is_no_such_network')",
        "transformers(model='nobody/there-is-no-such-model')",
        "open_clip(model='ViT-B-32', pretrained='laion2b_s34b_b79k')",
        "open_clip(model='local-dir:/there/is/none')",
    ],
)
def test_what_cannot_be_loaded_says_what_works_offline(spec: str) -> None:
    with pytest.raises(TeacherError, match=r"cannot load '.*(.|\n)*efficientnet_lite\(\) work offline"):
        registry.create("teacher", Spec.parse(spec), device="cpu")


def test_weights_must_be_named() -> None:
    with pytest.raises(TeacherError, match=r"names no weights(.|\n)*known tags: openai, laion"):
        registry.create("teacher", Spec.parse("open_clip(model='ViT-B-32')"), device="cpu")


@pytest.mark.parametrize(("size", "expected"), [((20_000, 5), (80, 5)), ((3, 90), (3, 48)), ((160, 10), (160, 10))])
def test_only_the_middle_of_a_very_long_image_counts(size: tuple[int, int], expected: tuple[int, int]) -> None:
    from PIL import Image

    image = Image.new("RGB", size)
    image.putpixel((size[0] // 2, size[1] // 2), (255, 0, 0))
    middle = without_ends(image)
    assert middle.size == expected
    assert middle.getpixel((expected[0] // 2, expected[1] // 2)) == (255, 0, 0)


def test_misspelt_arguments() -> None:
    with pytest.raises(SpecError, match="did you mean 'checkpoint'"):
        registry.create("teacher", Spec.parse("timm(model='x', chekpoint='y')"), device="cpu")
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        registry.create("teacher", Spec.parse("transformers(model='x', pool='meen')"), device="cpu")


def test_nothing_runs_below_its_precision(tiny_timm: Mapping[str, Path]) -> None:
    """TF32 is off in every forward pass, and what the caller set comes back."""
    import torch
    from PIL import Image

    places = torch.backends.cudnn, torch.backends.cuda.matmul
    spec = Spec.of("timm", model="test_vit", checkpoint=str(tiny_timm["test_vit"]))
    teacher = registry.create("teacher", spec, device="cpu")
    seen = []
    forward = teacher.network

    def watched(pixels: Any) -> Any:
        seen.append([place.allow_tf32 for place in places])
        return forward(pixels)

    teacher.network = watched
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = True
    try:
        teacher.encode_images([teacher.prepare_image(Image.new("RGB", (40, 30)))])
        assert [place.allow_tf32 for place in places] == [True, True]
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed
    assert seen == [[False, False]]
