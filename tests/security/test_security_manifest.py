"""`open` takes no manifest that breaks its schema, contradicts itself, or is a bomb; in bounded time and memory."""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labelgen
from labelgen.errors import LabelgenError, StoreError
from labelgen.store.manifest import load_manifest
from labelgen.store.schema.conforms import conforms
from labelgen.store.schema.validation import schema_problems
from labelgen.store.verify.store import verify

GOLDEN = Path(__file__).parents[1] / "data" / "golden_v1"


def _set(*places: Any) -> Callable[[dict[str, Any]], object]:
    """`_set("corpus", "n_images", 9)`: a change of one value."""
    *way, key, value = places

    def change(document: Any) -> None:
        for step in way:
            document = document[step]
        document[key] = value

    return change


def _twice(document: dict[str, Any]) -> None:
    document["embeddings"].append(copy.deepcopy(document["embeddings"][0]))


def _other_shape(document: dict[str, Any]) -> None:
    document["embeddings"][0]["shape"][0] += 1


def _gap(document: dict[str, Any]) -> None:
    document["corpus"]["splits"] = {"train": [0, 5], "val": [6, 8]}


def _overlap(document: dict[str, Any]) -> None:
    document["corpus"]["splits"] = {"train": [0, 7], "val": [6, 8]}


def _forgotten_file(document: dict[str, Any]) -> None:
    del document["files"]["embeddings/text/text/c/0/0"]


def _list_of_another(document: dict[str, Any]) -> None:
    """Captions are compared by a teacher that has rows of images only."""
    entry = next(entry for entry in document["neighbors"] if entry["relation"] == "t2t" and entry["alias"] == "text")
    entry.update(alias="image", path="neighbors/t2t.image.k4")


CONTRADICTIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no teacher for an array": (lambda d: d["teachers"].pop("text"), "has no teacher"),
    "an array named twice": (_twice, "named 2 times"),
    "a shape that does not fit the corpus": (_other_shape, "rows for"),
    "another dim than the teacher": (_set("teachers", "text", "dim", 17), "its teacher of 17"),
    "rows of a list that do not fit": (_set("neighbors", 0, "rows", 5), "rows for"),
    "a relation that its teacher cannot serve": (_list_of_another, "compares t2t"),
    "modalities without rows": (_set("teachers", "text", "modalities", ["image", "text"]), "has rows of"),
    "splits with a gap": (_gap, "begins at image 6"),
    "splits that overlap": (_overlap, "begins at image 6"),
    "splits that end early": (_set("corpus", "splits", {"train": [0, 4]}), "hold 4 images"),
    "splits that run backwards": (_set("corpus", "splits", {"train": [8, 0]}), r"rows \[8, 0\)"),
    "counts that disagree": (_set("counts", "images", 9), "9 images are counted"),
    "more texts than captions": (_set("corpus", "n_texts", 999), "distinct texts"),
    "a quarantine that does not add up": (_set("quarantine", "total", 3), "3 items are quarantined"),
    "a shard that is not listed": (_forgotten_file, "lists no such file"),
    "a shard of another size": (_set("files", "embeddings/text/text/c/0/0", "bytes", 7), "its array needs"),
    "a corpus elsewhere": (_set("corpus", "path", "stats"), "corpus is in"),
    "an array elsewhere": (_set("embeddings", 0, "path", "receipts/text"), "are in"),
    "huge rows": (_set("embeddings", 0, "shape", [2**62, 2**62]), "declared as"),
    "a huge corpus": (_set("corpus", "n_captions", 4_000_000_000), "shards are not listed|rows for"),
    "a list of huge length": (_set("neighbors", 0, "k", 2**40), "declared as"),
    "numbers beyond all bounds": (_set("corpus", "splits", {"train": [0, 10**30]}), "rows"),
    "work as content": (lambda d: d["files"].update({".labelgen/x": {"bytes": 1, "blake3": "0" * 32}}), "is listed"),
    "a split that leaves its folder": (_set("corpus", "splits", {"../../x": [0, 8]}), "a split is named"),
    "a wrong type": (_set("machine", []), "schema"),
    "a field too many": (_set("extra", 1), "format 1"),
    "a whole number with a point": (_set("corpus", "n_images", 8.0), "n_images"),
    "a recipe that is none": (_set("recipe", {"dataset": {}}), "schema"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_manifest_against_itself_is_not_opened(forge: Any, name: str) -> None:
    change, words = CONTRADICTIONS[name]
    path = forge(change)
    started = time.perf_counter()
    with pytest.raises(StoreError, match=words) as refused:
        labelgen.open(path)
    assert time.perf_counter() - started < 2
    assert len(str(refused.value)) < 5000
    assert not verify(path).ok


def test_sealed_stores_of_today_are_opened(sound_store: Path) -> None:
    for path in (GOLDEN, sound_store):
        assert len(labelgen.open(path).manifest.teachers) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a":' * 100_000, "nested too deeply|not JSON"),
        ("[" * 1_000_000, "nested too deeply|not JSON"),
        ('{"format": 1, "format": 1}', "twice"),
        ('{"format": ' + "9" * 5000 + "}", "not JSON"),
    ],
)
def test_bombs_of_json(received: Path, text: str, words: str) -> None:
    (received / "manifest.json").write_text(text)
    with pytest.raises(LabelgenError, match=words) as refused:
        labelgen.open(received)
    assert len(str(refused.value)) < 2000
    assert verify(received).problems


def test_nesting_inside_of_a_valid_manifest(received: Path) -> None:
    document = json.loads((received / "manifest.json").read_text())
    text = json.dumps(document).replace('"machine": {}', '"machine": {"a": ' + "[" * 900 + "]" * 900 + "}")
    (received / "manifest.json").write_text(text)
    with pytest.raises(LabelgenError):
        labelgen.open(received)


def test_a_manifest_of_gigabytes_is_not_read(received: Path) -> None:
    os.truncate(received / "manifest.json", 4 << 30)  # a sparse file
    started = time.perf_counter()
    with pytest.raises(StoreError, match="too large"):
        labelgen.open(received)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_is_not_opened(received: Path, sound_store: Path, kind: str) -> None:
    path = received / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(sound_store / "manifest.json")
    else:
        path.mkdir()
    for call in (labelgen.open, verify):
        with pytest.raises(StoreError, match=r"pipe|link|folder"):
            call(received)


_VALUES = st.sampled_from(
    [None, True, False, 0, 1, -1, 7, 2**70, 0.5, "", "x", "a/b", "../a", [], {}, [1, 2], {"x": 1}]
)


def _places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in steps for found in [(*way, key), *_places(inner, (*way, key))]]


_DOCUMENT: dict[str, Any] = json.loads((GOLDEN / "manifest.json").read_text())
_PLACES = _places(_DOCUMENT)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(_PLACES), value=_VALUES, how=st.sampled_from(["set", "drop", "add"]))
def test_the_fast_check_agrees_with_the_schema(place: tuple[Any, ...], value: Any, how: str) -> None:
    """One value changed, dropped or added anywhere: yes and no as the reference validator says."""
    document = copy.deepcopy(_DOCUMENT)
    inner: Any = document
    for step in place[:-1]:
        inner = inner[step]
    if how == "drop":
        del inner[place[-1]]
    elif how == "add" and isinstance(inner, dict):
        inner["another"] = value
    else:
        inner[place[-1]] = value
    assert conforms("manifest.v1")(document) == (not schema_problems(document, "manifest.v1"))
    if isinstance(document.get("recipe"), dict):
        assert conforms("recipe.v1")(document["recipe"]) == (not schema_problems(document["recipe"], "recipe.v1"))


def test_opening_stays_quick() -> None:
    """The checks of a manifest take a few milliseconds (best of a few)."""
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        load_manifest(GOLDEN)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.02
