"""Queries against brute force over the stored rows, and what is said where a store cannot answer."""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import labelgen
from labelgen.cli.main import cli
from labelgen.errors import ConfigError, StoreMismatchError, TeacherError, UnknownNameError
from labelgen.queries import rank
from labelgen.queries.query import query
from labelgen.resources import demo_root
from labelgen.store.reader import Store
from labelgen.teachers.checks import normalise
from labelgen.testing.stores import make_store

TEXTS = ["a dog in the snow", "people at a table"]


class Letters:
    """Rows of counted letters, and of mean colours, in one space of 27 numbers."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def encode_texts(self, texts: Sequence[str]) -> Any:
        counts = [[text.lower().count(chr(97 + letter)) for letter in range(26)] for text in texts]
        return np.array([[*row, self.weight] for row in counts], np.float32)

    def prepare_image(self, image: Any) -> Any:
        return np.asarray(image.resize((3, 3)), np.float32).ravel()

    def encode_images(self, prepared: Sequence[Any]) -> Any:
        return np.stack(prepared) + 1


class OnlyTexts:
    """The texts of `Letters` alone."""

    def encode_texts(self, texts: Sequence[str]) -> Any:
        return Letters().encode_texts(texts)


def cosines(x: Any, y: Any) -> Any:
    """Similarity in float64, rounded once; [m, n]."""
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    products = left @ right.T
    norms = np.sqrt((left * left).sum(1)[:, None] * (right * right).sum(1))
    return np.divide(products, norms, out=np.full(products.shape, -np.inf), where=norms > 0).astype(np.float32)


def by_brute_force(
    store: Store, queries: Any, relation: str, alias: str, k: int, *, aggregation: str = "max", split: str = ""
) -> list[list[tuple[str, np.float32]]]:
    """(id, score) of the k best of every query, over every stored row."""
    images = np.asarray(store.splits[split]) if split else np.arange(store.images.height)
    both = {entry.modality for entry in store.manifest.embeddings if entry.alias == alias} == {"text", "image"}
    if relation.endswith("t"):
        candidates = store.captions_in(images)
        scores, ids = cosines(queries, store.embeddings(alias, "text").take(candidates)), store.caption_ids(candidates)
    elif relation == "i2i" or both:
        scores, ids = cosines(queries, store.embeddings(alias, "image").take(images)), store.image_ids(images)
    else:
        scores, ids = np.full((len(queries), len(images)), -np.inf, np.float32), store.image_ids(images)
        for place, image in enumerate(images.tolist()):
            members = cosines(queries, store.embeddings(alias, "text").take(store.captions_of(image)))
            for number, row in enumerate(members):
                if len(living := row[row > -np.inf]):
                    scores[number, place] = living.max() if aggregation == "max" else living.astype(np.float64).mean()
    found = []
    for row in scores:
        order = sorted(
            (place for place in range(len(row)) if row[place] > -np.inf), key=lambda place: (-row[place], place)
        )
        found.append([(ids[place], row[place]) for place in order[:k]])
    return found


def lists_of(frame: pl.DataFrame, relation: str, alias: str, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """(id, score) of the lists in a result."""
    column = "caption_id" if relation.endswith("t") else "image_id"
    chosen = frame.filter((pl.col("relation") == relation) & (pl.col("alias") == alias))
    return [
        list(chosen.filter(pl.col("query") == name).sort("rank").select(column, "score").iter_rows()) for name in names
    ]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo photographs with letters as texts, and with letters and colours in one space: no network is loaded."""
    root = demo_root()
    frame = pl.read_csv(root / "captions.csv").head(60)
    out = tmp_path_factory.mktemp("own") / "store"
    labelgen.build(frame, teachers={"text": OnlyTexts(), "clip": Letters()}, out=out, photos=str(root / "images"), k=3)
    return out


def objects() -> dict[str, Any]:
    return {"text": OnlyTexts(), "clip": Letters()}


@pytest.mark.parametrize("aggregation", ["max", "mean"])
@pytest.mark.parametrize("split", ["", "val"])
@pytest.mark.parametrize("piece", [1, 64 << 20])
def test_ranks_equal_brute_force(
    own: Path, monkeypatch: pytest.MonkeyPatch, aggregation: Any, split: str, piece: int
) -> None:
    monkeypatch.setattr(rank, "PIECE_BYTES", piece)
    store = labelgen.open(own)
    splits = split or ()
    photo = demo_root() / "images" / store.images["file"][4]
    found = store.query(
        TEXTS, image=photo, k=7, teachers=objects(), splits=splits if splits in store.splits or not split else "train",
        aggregation=aggregation,
    )  # fmt: skip
    used = (split if split in store.splits else "train") if split else ""
    rows = normalise(Letters().encode_texts(TEXTS))
    photo_rows = normalise(Letters().encode_images([Letters().prepare_image(Image.open(photo).convert("RGB"))]))
    for alias in ("text", "clip"):
        for relation in ("t2t", "t2i"):
            want = by_brute_force(store, rows, relation, alias, 7, aggregation=aggregation, split=used)
            assert lists_of(found.frame, relation, alias, TEXTS) == want
    for relation in ("i2i", "i2t"):
        want = by_brute_force(store, photo_rows, relation, "clip", 7, split=used)
        assert lists_of(found.frame, relation, "clip", [str(photo)]) == want
    assert set(zip(found.frame["relation"], found.frame["alias"], strict=True)) == {
        *(("t2t", "text"), ("t2i", "text")),
        *((relation, "clip") for relation in ("t2t", "t2i", "i2i", "i2t")),
    }


def test_the_method_takes_what_the_function_takes() -> None:
    function, method = inspect.signature(query).parameters, inspect.signature(Store.query).parameters
    assert {name: item.default for name, item in method.items() if name != "self"} == {
        name: item.default for name, item in function.items() if name not in ("store", "progress")
    }


def test_rows_without_an_embedding_and_images_without_captions(tmp_path: Path) -> None:
    """Features made elsewhere, with an object that makes rows of their length; dead rows are never listed."""
    sizes = (5, 2, 0, 1, 7, 3, 4, 2)
    made = make_store(
        tmp_path / "s", n_images=8, captions_per_image=sizes, dims={"text": 27, "image": 8},
        missing_captions=[3, 7], missing_images=[5],
    )  # fmt: skip
    store = labelgen.open(made)
    rows = normalise(Letters().encode_texts(TEXTS))
    for aggregation in ("max", "mean"):
        found = query(made, TEXTS, k=99, teachers={"text": OnlyTexts()}, aggregation=aggregation)  # type: ignore[arg-type]
        for relation in ("t2t", "t2i"):
            want = by_brute_force(store, rows, relation, "text", 99, aggregation=aggregation)
            assert lists_of(found.frame, relation, "text", TEXTS) == want
    shown = found.frame.filter((pl.col("relation") == "t2i") & (pl.col("query") == TEXTS[0]))
    assert "img-2" not in shown["image_id"].to_list()
    for image, caption in shown.select("image_id", "caption_id").iter_rows():
        members = store.captions_of(int(store.image_rows([image])[0]))
        similar = cosines(rows[:1], store.embeddings("text").take(members))[0]
        assert caption == store.caption_ids([int(members[np.argmax(similar)])])[0]


def test_precomputed_rows_need_a_network(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "s", n_images=4, captions_per_image=2, dims={"text": 27}))
    with pytest.raises(TeacherError, match="precomputed") as refused:
        store.query("a dog")
    assert "teachers={'text': model}" in refused.value.todo
    assert "--teacher text=module:factory" in refused.value.todo
    with pytest.raises(StoreMismatchError, match="is not the one") as other:
        store.query("a dog", teachers={"text": Wide()})
    assert "dim: 27 -> 5" in other.value.found


class Wide:
    def encode_texts(self, texts: Sequence[str]) -> Any:
        return np.array([[len(text), 1, 2, 3, number] for number, text in enumerate(texts)], np.float32)


def test_an_object_must_be_given_again_and_be_the_same(own: Path) -> None:
    store = labelgen.open(own)
    with pytest.raises(TeacherError, match="Python object"):
        store.query("a dog", teachers="text")
    with pytest.raises(StoreMismatchError, match="is not the one that the store"):
        store.query("a dog", teachers={"clip": Letters(weight=2.0)})
    found = store.query("a dog", teachers={"clip": Letters()}, k=1)
    assert set(found.frame["alias"]) == {"clip"}
    assert found.notes == ()


def test_one_that_cannot_answer_is_noted_where_none_was_named(own: Path, demo_store: Path) -> None:
    store = labelgen.open(demo_store)
    entry = dataclasses.replace(store.manifest.teachers["text"], kind="keyed")
    store.manifest.teachers["other"] = entry  # type: ignore[index]
    store.manifest = dataclasses.replace(
        store.manifest,
        embeddings=[*store.manifest.embeddings, dataclasses.replace(store.manifest.embeddings[0], alias="other")],
    )
    found = store.query("a dog", k=1)
    assert found.notes == (
        "other does not answer: the rows of teacher 'other' are precomputed: it cannot encode a query",
    )
    assert set(found.frame["alias"]) == {"text"}
    with pytest.raises(TeacherError, match="precomputed"):
        store.query("a dog", k=1, teachers=["text", "other"])


def test_a_caption_of_the_store_finds_itself(demo_store: Path) -> None:
    store = labelgen.open(demo_store)
    captions = store.captions.filter(pl.col("status") == "ok").gather_every(37)
    found = store.query(captions["text"].to_list(), k=1)
    for relation, column in (("t2t", "text"), ("t2i", "text")):
        first = found.frame.filter(pl.col("relation") == relation)
        assert first[column].to_list() == captions["text"].to_list()
        assert first["score"].min() > 0.9999  # type: ignore[operator]
    owners = store.image_ids(store.image_of(captions["caption_row"].to_numpy()))
    assert found.frame.filter(pl.col("relation") == "t2i")["image_id"].to_list() == owners
    alone = store.query(captions["text"][0], k=3).frame
    together = store.query(captions["text"].to_list(), k=3).frame.filter(pl.col("query") == captions["text"][0])
    assert alone["image_id"].to_list() == together["image_id"].to_list()
    np.testing.assert_allclose(alone["score"], together["score"], atol=1e-3)


def test_a_photograph_finds_itself_in_every_form(demo_store: Path) -> None:
    store = labelgen.open(demo_store)
    file = demo_root() / "images" / store.images["file"][5]
    forms = [file, str(file), file.read_bytes(), Image.open(file)]
    frames = [store.query(image=form, k=4).frame for form in forms]
    for frame in frames:
        assert frame["image_id"][0] == store.images["image_id"][5]
        assert frame["score"][0] > 0.9999
        assert frame.drop("query").equals(frames[0].drop("query"))
    both = store.query(image=[file, file.read_bytes()], k=1).frame
    assert both["query"].to_list() == [str(file), "image 2"]


def test_a_teacher_with_other_weights_is_refused(demo_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = labelgen.open(demo_store)
    with pytest.raises(StoreMismatchError, match="is not the one") as refused:
        store.query("a dog", teachers={"text": "minilm(text='cusa')"})
    assert "text.identity.text: none -> cusa" in refused.value.found

    class Changed:
        modalities, dim, text_block = frozenset({"text"}), 384, 8

        def identity(self) -> Any:
            return {**store.manifest.teachers["text"].identity, "weights": "others"}

        def encode_texts(self, texts: Sequence[str]) -> Any:
            raise AssertionError("compared before anything is encoded")

    monkeypatch.setattr("labelgen.stages.running.worker._loaded", lambda _spec, _device: Changed())
    with pytest.raises(StoreMismatchError, match="is not the one"):
        store.query("a dog")


def test_a_notebook_shows_photographs_and_escapes_texts(demo_store: Path) -> None:
    store = labelgen.open(demo_store)
    found = store.query("<b>a dog</b>", k=2)
    page = found._repr_html_()
    assert page.count("<img") == len(found) == 4
    assert "data:image/jpeg;base64," in page
    assert "&lt;b&gt;a dog&lt;/b&gt;" in page
    assert "<b>a dog" not in page
    assert "a dog" in repr(found)
    assert isinstance(found.frame, pl.DataFrame)
    assert found.frame.columns == [
        *("query", "relation", "alias", "rank", "score", "split", "image_id", "caption_id", "text", "file")
    ]
    assert pickle.loads(pickle.dumps(found)).frame.equals(found.frame)
    moved = store.query("a dog", k=2, photos="nowhere")
    assert "<img" not in moved._repr_html_()
    assert "photos=... names their folder" in moved._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({}, ConfigError, "there is no query"),
        ({"image": None}, ConfigError, "there is no query"),
        ({"text": ""}, ConfigError, "no text"),
        ({"text": ["a dog", " \n"]}, ConfigError, "no text"),
        ({"text": [3]}, ConfigError, "no text"),
        ({"text": "x", "k": 0}, ConfigError, "k is 0"),
        ({"text": "x", "k": True}, ConfigError, "k is True"),
        ({"text": "x", "teachers": "txt"}, UnknownNameError, "'txt'"),
        ({"text": "x", "teachers": "image"}, ConfigError, "no teacher answers texts"),
        ({"text": "x", "relations": ["i2i"]}, ConfigError, "no teacher answers texts by i2i"),
        ({"text": "x", "relations": ["t2x"]}, UnknownNameError, "'t2x'"),
        ({"text": "x", "splits": "test"}, UnknownNameError, "'test'"),
        ({"text": "x", "aggregation": "median"}, UnknownNameError, "'median'"),
        ({"image": 3}, ConfigError, "not a photograph"),
        ({"image": ""}, ConfigError, "no file name"),
        ({"image": b""}, labelgen.errors.DatasetError, "image 1"),
        ({"image": b"not a picture"}, labelgen.errors.DatasetError, "image 1"),
        ({"image": "nowhere/x.jpg"}, labelgen.errors.DatasetError, "there is no file"),
    ],
)
def test_wrong_arguments(demo_store: Path, arguments: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        labelgen.open(demo_store).query(**arguments)


def test_a_trained_teacher_answers_by_its_stored_network(tmp_path: Path) -> None:
    """Its source encodes the query, and the network of the store refines the rows."""
    texts = [
        f"{['red', 'blue', 'green', 'grey'][number % 4]} thing {number // 4} {side}"
        for number in range(80)
        for side in "ab"
    ]
    frame = pl.DataFrame({"image_id": [str(row // 2) for row in range(160)], "caption": texts})
    out = tmp_path / "store"
    spec = "siamese(of='text', steps=100, dim=8, hidden=16)"
    labelgen.build(frame, teachers={"text": OnlyTexts(), "small": spec}, out=out, k=3)
    store = labelgen.open(out)
    found = store.query(texts[11], k=2, teachers={"small": None, "text": OnlyTexts()})
    for alias in ("small", "text"):
        first = found.frame.filter((pl.col("alias") == alias) & (pl.col("relation") == "t2t")).row(0, named=True)
        assert first["score"] > 0.999
        stored = store.embeddings(alias).take([int(store.caption_rows([first["caption_id"]])[0])])
        own = store.embeddings(alias).take([11])
        assert cosines(stored, own)[0, 0] > 0.999


def test_teachers_made_of_rows_answer_by_the_maps_of_the_store(demo_store: Path, tmp_path: Path) -> None:
    """A photograph by the map of all images, though the same photograph in the store has that of its fold."""
    from safetensors.numpy import load_file

    from labelgen import pipeline

    out = tmp_path / "store"
    shutil.copytree(demo_store, out)
    specs = {"bridge": "bridge()", "centred": "centred(of='text')", "concat": "concat(text=1, bridge=0.5)"}
    pipeline.add(out, teachers=specs, relations=["t2t.bridge", "t2t.centred", "t2t.concat"])
    store = labelgen.open(out)
    text = store.captions["text"][0]
    for alias in specs:
        found = store.query(text, teachers=alias, k=1, relations=["t2t"]).frame
        assert found["text"][0] == text
        assert found["score"][0] > 0.999
    file = demo_root() / "images" / store.images["file"][5]
    found = store.query(image=file, teachers="bridge", k=20, relations=["i2t"]).frame
    arrays = load_file(out / "models" / "bridge" / "maps.safetensors")
    row = np.asarray(store.embeddings("image").take(np.array([5])), np.float64) - arrays["image.mean"]
    expected = dict(by_brute_force(store, row @ arrays["map"].astype(np.float64), "i2t", "bridge", 40)[0])
    for name, score in zip(found["caption_id"], found["score"], strict=True):
        assert score == pytest.approx(expected[name], abs=3e-3)
    with pytest.raises(TeacherError, match="made of their captions, too"):
        store.query(image=file, teachers="concat", k=3)


def test_the_command(demo_store: Path) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["query", str(demo_store), *arguments, "--progress", "none"])

    shown = run("a dog in the snow", "-n", "2")
    assert shown.exit_code == 0, shown.output
    assert "nearest captions by text (t2t)" in shown.stdout
    assert "nearest images by text (t2i)" in shown.stdout
    told = run("a dog in the snow", "--split", "val", "--k", "3", "--json")
    answer = json.loads(told.stdout)
    want = labelgen.open(demo_store).query("a dog in the snow", k=3, splits="val").frame
    assert answer["results"] == json.loads(json.dumps(want.to_dicts()))
    assert {row["split"] for row in answer["results"]} == {"val"}
    assert run().exit_code == 2
    assert run("").exit_code == 2
    assert run("x", "--image", "nowhere.jpg").exit_code == 3


def test_a_factory_on_the_command_line(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The factory is a module of the current folder; the same object answers, another one is refused."""
    (tmp_path / "letters_of_mine.py").write_text(
        f"import sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom test_queries import Letters\n\n\n"
        "def make():\n    return Letters()\n\n\ndef heavy():\n    return Letters(weight=2.0)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path.copy())
    arguments = ["query", str(own), "a dog", "-n", "1", "--progress", "none", "--teacher"]
    answered = CliRunner().invoke(cli, [*arguments, "clip=letters_of_mine:make"])
    assert answered.exit_code == 0, answered.output
    refused = CliRunner().invoke(cli, [*arguments, "clip=letters_of_mine:heavy"])
    assert refused.exit_code == 5
    assert "clip.identity" in refused.stderr


def test_a_store_read_over_kinds_of_captions(tmp_path: Path) -> None:
    texts = [f"{word} {number}" for number in range(6) for word in ("a dog", "two dogs", "snow")]
    kinds = ["human", "model", "model"] * 6
    frame = pl.DataFrame({"image_id": [str(row // 3) for row in range(18)], "caption": texts, "kind": kinds})
    labelgen.build(frame, teachers={"text": OnlyTexts()}, out=tmp_path / "s", k=2)
    store = labelgen.open(tmp_path / "s", kinds="human")
    found = store.query("two dogs in snow", k=20, teachers={"text": OnlyTexts()})
    rows = normalise(OnlyTexts().encode_texts(["two dogs in snow"]))
    for relation in ("t2t", "t2i"):
        want = by_brute_force(store, rows, relation, "text", 20)
        assert lists_of(found.frame, relation, "text", ["two dogs in snow"]) == want
        assert len(want[0]) == 6
    assert all(text.startswith("a dog") for text in found.frame["text"])
