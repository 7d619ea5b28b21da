"""Teachers as Python objects: rows of the same network by spec, identities, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_objects import Both, Colours, HashedTexts

from labelgen import given, registry
from labelgen.errors import ConfigError, LabelgenError, SpecError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.objects.given_teacher import as_teacher, resolve_teachers
from labelgen.testing.teachers import ImageTeacherSuite, TextTeacherSuite

TEXTS = ["two dogs run", "a cat", "a cat asleep on a warm stone wall", ""]


def rows(teacher: Any, texts: list[str] = TEXTS) -> Any:
    return teacher.encode_texts(texts)


def pictures(teacher: Any, count: int = 3) -> Any:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (count, 40, 50, 3), dtype=np.uint8)
    return teacher.encode_images([teacher.prepare_image(Image.fromarray(item)) for item in noise])


class TestTexts(TextTeacherSuite):
    """An object passes the suite that every text teacher passes."""

    def make(self, spec: Spec) -> Any:
        return as_teacher(HashedTexts(), block=spec.arguments.get("block", 64)).make("cpu")

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("object", **changes)

    def oracle(self, texts: Any) -> Any:
        wide = HashedTexts().encode_texts(texts)
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)


class TestImages(ImageTeacherSuite):
    """And one of images."""

    def make(self, spec: Spec) -> Any:
        return as_teacher(Colours()).make("cpu")

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("object", **changes)

    def oracle_images(self, images: Any) -> Any:
        wide = Colours().encode_images([Colours().prepare_image(image) for image in images])
        return wide / np.linalg.norm(wide, axis=1, keepdims=True)


def test_a_sentence_transformer_gives_the_rows_of_its_spec(tiny_sbert: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(tiny_sbert), device="cpu")
    model.train()
    by_spec = registry.create("teacher", Spec.of("sbert", model=str(tiny_sbert)), device="cpu")
    given_teacher = as_teacher(model)
    assert rows(given_teacher.make("cpu")).tobytes() == rows(by_spec).tobytes()
    assert model.training, "the caller's own model was changed"
    assert all(weight.requires_grad for weight in model.parameters())
    sent = pickle.loads(pickle.dumps(given_teacher))
    assert rows(sent.make("cpu")).tobytes() == rows(by_spec).tobytes()
    assert sent.make("cpu").identity() == given_teacher.make("cpu").identity()


def test_a_timm_model_gives_the_rows_of_its_spec(tiny_timm: dict[str, Path]) -> None:
    timm = pytest.importorskip("timm")
    for name, path in tiny_timm.items():
        model = timm.create_model(name, checkpoint_path=str(path))
        by_spec = registry.create("teacher", Spec.of("timm", model=name, checkpoint=str(path), batch=3), device="cpu")
        made = as_teacher(model, batch=3).make("cpu")
        assert pictures(made).tobytes() == pictures(by_spec).tobytes()


def test_an_open_clip_model_is_one_teacher_of_both(tiny_clip: Path) -> None:
    library = pytest.importorskip("open_clip")
    name = f"local-dir:{tiny_clip}"
    model, preprocess = library.create_model_from_pretrained(name)
    tokenizer = library.get_tokenizer(name)
    by_spec = registry.create("teacher", Spec.of("open_clip", model=name), device="cpu")
    made = as_teacher(model, preprocess=preprocess, tokenizer=tokenizer).make("cpu")
    assert made.modalities == {"text", "image"}
    assert rows(made).tobytes() == rows(by_spec).tobytes()
    assert pictures(made).tobytes() == pictures(by_spec).tobytes()
    specs, objects = resolve_teachers(
        {"image": as_teacher(model, preprocess=preprocess, tokenizer=tokenizer, modality="image")}
    )
    assert objects[str(specs["image"])].make("cpu").modalities == {"image"}


def test_identity_follows_everything_that_can_move_a_row(tiny_sbert: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")

    def changed(change: Any) -> str:
        model = library.SentenceTransformer(str(tiny_sbert), device="cpu")
        change(model)
        return str(as_teacher(model).spec)

    def perturb(model: Any) -> None:
        with torch.no_grad():
            next(iter(model.parameters())).add_(1)

    def mean_of_max(model: Any) -> None:
        model[1].pooling_mode = "max"

    changes = {
        "prompt": lambda model: (
            setattr(model, "prompts", {"query": "q: "}) or setattr(model, "default_prompt_name", "query")
        ),
        "length": lambda model: setattr(model, "max_seq_length", 7),
        "pooling": mean_of_max,
        "weights": perturb,
    }
    same = {changed(lambda _: None), changed(lambda model: model.train()), changed(lambda model: model.eval())}
    assert len(same) == 1
    assert len({*same, *(changed(change) for change in changes.values())}) == 1 + len(changes)


def test_identity_of_plain_objects() -> None:
    specs = [as_teacher(HashedTexts(*arguments)).spec for arguments in [(), (), (32,), (24, "q: ")]]
    assert specs[0] == specs[1]
    assert len(set(specs)) == 3
    assert as_teacher(HashedTexts(), block=16).spec != specs[0]

    class Other(HashedTexts):
        def encode_texts(self, texts: Any) -> Any:
            return super().encode_texts(texts)[:, ::-1].copy()

    assert as_teacher(Other()).spec.arguments["identity"] != specs[0].arguments["identity"]
    arrays = HashedTexts()
    arrays.table = np.arange(5)  # type: ignore[attr-defined]
    other = HashedTexts()
    other.table = np.arange(5)[::-1]  # type: ignore[attr-defined]
    assert len({as_teacher(arrays).spec, as_teacher(other).spec, specs[0]}) == 3


def test_identity_that_is_given() -> None:
    stated = as_teacher(HashedTexts(), identity="pairs v1")
    assert str(stated.spec) == "object(identity='pairs v1', name='own_objects.HashedTexts')"
    assert stated.make("cpu").identity()["identity"] == "pairs v1"

    class WithMethod(HashedTexts):
        def identity(self) -> dict[str, Any]:
            return {"dim": self.dim_wanted}

    assert as_teacher(WithMethod()).spec != as_teacher(WithMethod(32)).spec
    assert (
        as_teacher(lambda texts: HashedTexts().encode_texts(texts), modality="text", identity="f").make("cpu").dim == 24
    )


def test_an_object_of_both_sides_is_what_its_alias_says() -> None:
    assert as_teacher(Both()).make("cpu").modalities == {"text", "image"}
    specs, objects = resolve_teachers({"text": Both(), "image": Both(), "clip": Both()})
    kinds = {alias: sorted(objects[str(spec)].make("cpu").modalities) for alias, spec in specs.items()}
    assert kinds == {"text": ["text"], "image": ["image"], "clip": ["image", "text"]}


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda texts: texts, {"modality": "text"}, "has no identity"),
        (lambda texts: texts, {"identity": "v1"}, "is a function of texts or of images"),
        (HashedTexts, {}, "is not a model"),
        ("minilm()", {}, "is not a model"),
        (3, {"identity": "v1"}, "is not a teacher"),
        (HashedTexts(), {"modality": "image"}, "is not a teacher of modality image"),
        (lambda texts: [[1.0, 2.0]], {"modality": "text", "identity": "x"}, "one vector for each"),
        (lambda texts: [1.0] * len(texts), {"modality": "text", "identity": "x"}, "one vector for each"),
        (lambda texts: ["a"] * len(texts), {"modality": "text", "identity": "x"}, "not an array of numbers"),
        (
            lambda texts: np.random.default_rng().random((len(texts), 4)),
            {"modality": "text", "identity": "x"},
            "different rows",
        ),
        (lambda texts: 1 / 0, {"modality": "text", "identity": "x"}, "fails on its input"),
    ],
)
def test_what_is_no_teacher_is_refused(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LabelgenError, match=message):
        as_teacher(model, **options)


def test_what_cannot_be_described_needs_an_identity() -> None:
    hidden = 3
    object_with_closure = HashedTexts()
    object_with_closure.step = lambda text: text * hidden  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="no identity that labelgen can find") as caught:
        as_teacher(object_with_closure)
    assert "the object.step" in caught.value.found
    assert "identity=" in caught.value.todo
    assert as_teacher(object_with_closure, identity="v2").make("cpu").dim == 24


def test_torch_modules_without_preprocessing_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="without preprocessing"):
        as_teacher(torch.nn.Linear(3, 4))


def test_tensors_and_lists_of_tensors_are_rows() -> None:
    torch = pytest.importorskip("torch")
    weights = torch.arange(24.0, requires_grad=True)

    def encode(texts: list[str]) -> Any:
        return torch.tensor(HashedTexts().encode_texts(texts)).float() * weights

    one = as_teacher(encode, modality="text", identity="a").make("cpu")
    listed = as_teacher(lambda texts: list(encode(texts).bfloat16()), modality="text", identity="b").make("cpu")
    assert rows(one).dtype == np.float32
    assert np.allclose(rows(one), rows(listed), atol=1e-2)


def test_factories_by_reference() -> None:
    specs, objects = resolve_teachers({"text": "own_objects:make", "wide": "own_objects:make(dim=32)"})
    assert specs["text"].arguments["name"] == "own_objects:make"
    assert [objects[str(spec)].make("cpu").dim for spec in specs.values()] == [24, 32]
    assert specs["text"].arguments["identity"] == as_teacher(HashedTexts()).spec.arguments["identity"]
    with given.giving(objects):
        sent = pickle.loads(given.packed())
    assert pickle.loads(sent[str(specs["wide"])]).make("cpu").dim == 32


@pytest.mark.parametrize(
    ("reference", "error", "message"),
    [
        ("no_such_module:make", ConfigError, "cannot import 'no_such_module'"),
        ("own_objects:mak", UnknownNameError, "did you mean 'make'"),
        ("own_objects:make(dim=x)", SpecError, "not a spec"),
        ("own_objects:make(size=3)", TeacherError, "does not make a teacher"),
        ("own_objects:fail", TeacherError, "no weights here"),
        ("own_objects:make_nothing", ConfigError, "has no identity"),
        ("own_objects:Both.make", SpecError, "attribute of an attribute"),
    ],
)
def test_wrong_references(reference: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve_teachers({"text": reference})


def test_a_spec_brings_no_object_along() -> None:
    teacher = as_teacher(HashedTexts())
    with pytest.raises(TeacherError, match="not stored") as caught:
        registry.create("teacher", teacher.spec, device="cpu")
    assert "teachers=" in caught.value.todo
    with given.giving({str(teacher.spec): teacher}):
        assert registry.create("teacher", teacher.spec, device="cpu") is teacher.make("cpu")
    with pytest.raises(TeacherError):
        registry.create("teacher", teacher.spec, device="cpu")


def test_what_does_not_pickle_says_what_to_do() -> None:
    teacher = as_teacher(lambda texts: HashedTexts().encode_texts(texts), modality="text", identity="f")
    with given.giving({str(teacher.spec): teacher}), pytest.raises(ConfigError, match="cannot be sent") as caught:
        given.packed()
    assert "no lambda" in caught.value.todo
    assert "workers=1" in caught.value.todo
    assert given.packed() == b""
