"""open_clip and conse: two sides in one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import ConfigError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.adapters.conse import class_names
from labelgen.teachers.adapters.crossmodal import CrossModal
from labelgen.teachers.base import ImageTeacher, TextTeacher
from labelgen.teachers.packages import lite_file, minilm_folder
from labelgen.testing.teachers import ImageTeacherSuite, TextTeacherSuite
from labelgen.types import Float32


def unit(rows: Any) -> Float32:
    wide = np.asarray(rows, dtype=np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


class TestOpenClip(TextTeacherSuite, ImageTeacherSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_clip: Path) -> None:
        self.name = f"local-dir:{tiny_clip}"

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("open_clip", **{"model": self.name, **changes})

    def variants(self) -> Mapping[str, Spec]:
        return {
            "image side": self.spec(side="image"),
            "text side": self.spec(side="text"),
            "text step": self.spec(text="cusa"),
            "precision": self.spec(precision="bfloat16"),
            "batch": self.spec(batch=2),
        }

    def oracle(self, texts: Sequence[str]) -> Float32:
        import open_clip
        import torch

        network, tokenizer = open_clip.create_model(self.name), open_clip.get_tokenizer(self.name)
        with torch.inference_mode():
            return unit(torch.cat([network.eval().encode_text(tokenizer([text])) for text in texts]))

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        import open_clip
        import torch

        network, transform = open_clip.create_model_from_pretrained(self.name)
        with torch.inference_mode():
            return unit(torch.cat([network.eval().encode_image(transform(image)[None]) for image in images]))

    def test_is_both(self) -> None:
        assert isinstance(self.teacher(), TextTeacher)
        assert isinstance(self.teacher(), ImageTeacher)
        assert self.teacher().modalities == {"text", "image"}

    def test_sides_alone_give_the_same_rows(self) -> None:
        texts = self.make(self.spec(side="text"))
        images = self.make(self.spec(side="image"))
        assert (texts.modalities, images.modalities) == ({"text"}, {"image"})
        np.testing.assert_array_equal(texts.encode_texts(self.texts), self.teacher().encode_texts(self.texts))
        prepared = [images.prepare_image(image) for image in self.images()]
        np.testing.assert_array_equal(images.encode_images(prepared), self.rows(self.images()))

    def test_bfloat16(self) -> None:
        rows = self.make(self.spec(precision="bfloat16")).encode_texts(self.texts)
        self.check_unit_rows(rows, len(self.texts))
        assert (rows * self.teacher().encode_texts(self.texts)).sum(1).min() > 0.999

    def test_no_such_side(self) -> None:
        with pytest.raises(UnknownNameError, match="both"):
            self.make(self.spec(side="left"))

    def test_activation_of_other_weights_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """open_clip only warns; the features would be wrong."""
        import warnings

        import open_clip

        def warn(*_: Any, **__: Any) -> None:
            warnings.warn("QuickGELU mismatch between final model config and tag 'openai'", UserWarning, stacklevel=2)

        monkeypatch.setattr(open_clip, "create_model_from_pretrained", warn)
        with pytest.raises(TeacherError, match="add -quickgelu"):
            self.make(Spec.of("open_clip", model="ViT-B-32", pretrained="openai"))


class TestConse(TextTeacherSuite, ImageTeacherSuite):
    """With numbers for class names, which are quicker to encode; photographs and real names come below."""

    tolerance = 5e-6

    @pytest.fixture(autouse=True)
    def _names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names = [str(number) for number in range(1000)]
        monkeypatch.setattr("labelgen.teachers.adapters.conse.class_names", lambda: self.names)

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("conse", **{"size": 0, **changes})

    def variants(self) -> Mapping[str, Spec]:
        return {"top and text step": self.spec(top=5, text="cusa")}

    def oracle(self, texts: Sequence[str]) -> Float32:
        from sentence_transformers import SentenceTransformer

        return unit(SentenceTransformer(str(minilm_folder()), device="cpu").encode(list(texts)))

    def oracle_images(self, images: Sequence[Any]) -> Float32:
        """The sum over the ten most probable classes, in float64 and one image at a time."""
        import timm
        import torch

        names = self.oracle(self.names).astype(np.float64)
        network = timm.create_model("tf_efficientnet_lite0").eval()
        timm.models.load_checkpoint(network, str(lite_file(0)), remap=True)
        rows = []
        for image in images:
            pixels = torch.tensor((self.teacher().prepare_image(image).astype(np.float32) - 127) / 128)
            with torch.inference_mode():
                logits = network(pixels.permute(2, 0, 1)[None])[0].double().numpy()
            shares = np.exp(logits - logits.max())
            shares /= shares.sum()
            best = np.argsort(-shares)[:10]
            rows.append(sum(shares[label] * names[label] for label in best))
        return unit(rows)

    def test_no_such_top(self) -> None:
        with pytest.raises(ConfigError, match="1 to 1000"):
            self.make(self.spec(top=0))


def test_class_names() -> None:
    names = class_names()
    assert len(names) == 1000
    assert names[0] == "tench, Tinca tinca"


@pytest.mark.shared
def test_finds_photographs_by_their_captions(shared_data: Path) -> None:
    """Far above chance on 48 captioned photographs: chance is 1 in 48."""
    import polars as pl
    from PIL import Image

    root = shared_data / "coco_mini_licensed"
    captions = pl.read_parquet(root / "captions.parquet").filter(pl.col("caption_index") == 0).head(48)
    teacher = registry.create("teacher", Spec.of("conse", size=0), device="cpu")
    prepared = [
        teacher.prepare_image(Image.open(root / "images" / name).convert("RGB")) for name in captions["file_name"]
    ]
    size = teacher.image_batch
    batches = [teacher.encode_images(prepared[start : start + size]) for start in range(0, len(prepared), size)]
    scores = teacher.encode_texts(captions["caption"].to_list()) @ np.concatenate(batches).T
    assert (scores.argmax(1) == np.arange(48)).mean() > 0.25


def test_two_sides_of_different_length_are_refused() -> None:
    class Side:
        modalities = frozenset({"text"})
        text_block = image_block = image_batch = 1

        def __init__(self, dim: int) -> None:
            self.dim = dim

    with pytest.raises(TeacherError, match="384 for texts, 512 for images"):
        CrossModal(Side(384), Side(512))  # type: ignore[arg-type]
