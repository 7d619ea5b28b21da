"""Builds with `runtime='auto'`: resolved once, written, and used by whatever continues the store; equal bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openvino")

import labelgen
from labelgen import pipeline
from labelgen.errors import StoreMismatchError
from labelgen.stages.running.environment import machine_class
from labelgen.store.manifest import Manifest, load_manifest
from labelgen.teachers.compute import choice


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "captions.csv"
    _write(path, range(24))
    return path


def _write(path: Path, images: range) -> None:
    words = ["dog", "cat", "boat", "street", "house", "window", "child"]
    lines = [
        f"i{image},i{image}-{number},a {words[image % 7]} and {'very ' * (image * number % 9)}{words[number]} {image}"
        for image in images
        for number in range(5)
    ]
    path.write_text("\n".join(["image_id,caption_id,caption", *lines]) + "\n", encoding="utf-8")


def _teacher(folder: Path, runtime: str = "") -> dict[str, str]:
    return {"text": f"sbert(model={str(folder)!r}, batch=8, block=32{runtime and f', runtime={runtime!r}'})"}


@pytest.fixture(scope="module")
def resolved(table: Path, tiny_sbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store by `auto`, in this process with one thread."""
    out = tmp_path_factory.mktemp("resolved") / "store"
    labelgen.build(table, out, teachers=_teacher(tiny_sbert, "auto"), k=4, overrides=["run.threads=1"])
    return out


@pytest.fixture(scope="module")
def by_torch(table: Path, tiny_sbert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("torch") / "store"
    labelgen.build(table, out, teachers=_teacher(tiny_sbert, "torch"), k=4)
    return out


def _written(manifest: Manifest) -> tuple[str, str]:
    return manifest.recipe["teachers"]["text"], manifest.teachers["text"].spec


def test_auto_is_resolved_in_recipe_identity_and_machine_class(resolved: Path, by_torch: Path) -> None:
    manifest, other = load_manifest(resolved), load_manifest(by_torch)
    assert all("runtime='openvino'" in text for text in _written(manifest))
    assert all("runtime" not in text for text in _written(other))
    assert manifest.teachers["text"].identity["compute"]["runtime"] == "openvino"
    assert "runtime" not in other.teachers["text"].identity["compute"]
    assert "openvino" in manifest.libraries
    assert "openvino" in manifest.machine["classes"][0]
    assert "openvino" not in other.machine["classes"][0]
    assert machine_class() == other.machine["classes"][0]


@pytest.mark.parametrize("run", [{"overrides": ["run.threads=2"]}, {"workers": 2}, {"memory": "512MB"}])
def test_the_bytes_do_not_depend_on_the_run(
    resolved: Path, table: Path, tiny_sbert: Path, tmp_path: Path, run: dict[str, Any]
) -> None:
    labelgen.build(table, tmp_path / "store", teachers=_teacher(tiny_sbert, "openvino"), k=4, **run)
    assert load_manifest(tmp_path / "store").content_digest == load_manifest(resolved).content_digest


def test_a_store_keeps_the_runtime_that_is_written_in_it(
    resolved: Path, by_torch: Path, table: Path, tiny_sbert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = _teacher(tiny_sbert, "auto")
    assert not labelgen.build(table, by_torch, teachers=auto, k=4).changed  # OpenVINO is offered
    monkeypatch.setattr(choice, "is_offered", lambda _device: False)
    assert not labelgen.build(table, resolved, teachers=auto, k=4).changed
    assert not labelgen.build(table, by_torch, teachers=_teacher(tiny_sbert, "torch"), k=4).changed
    with pytest.raises(StoreMismatchError, match="runtime"):
        labelgen.build(table, by_torch, teachers=_teacher(tiny_sbert, "openvino"), k=4)


def test_an_append_and_a_deep_check_use_what_is_written(
    resolved: Path, by_torch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "more.csv", range(20, 40))
    for store, offered in ((resolved, False), (by_torch, True)):
        grown = tmp_path / f"grown {offered}"
        shutil.copytree(store, grown)
        with monkeypatch.context() as patch:
            patch.setattr(choice, "is_offered", lambda _device, offered=offered: offered)
            before = _written(load_manifest(grown))
            assert labelgen.append(grown, tmp_path / "more.csv").changed
            assert _written(load_manifest(grown)) == before
            checked = pipeline.verify(grown, deep=True)
            assert checked.problems == ()
            assert any("embedded again" in note and "not embedded" not in note for note in checked.notes)


def test_unfinished_work_is_resumed_with_its_runtime(
    resolved: Path, table: Path, tiny_sbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Any) -> None:
        if event.kind == "task" and event.stage == "embed":
            raise KeyboardInterrupt

    out, auto = tmp_path / "store", _teacher(tiny_sbert, "auto")
    with pytest.raises(KeyboardInterrupt):
        labelgen.build(table, out, teachers=auto, k=4, progress=stop)
    assert "runtime='openvino'" in json.dumps(pipeline.status(out).recipe)
    monkeypatch.setattr(choice, "is_offered", lambda _device: False)
    labelgen.build(table, out, teachers=auto, k=4)
    assert load_manifest(out).content_digest == load_manifest(resolved).content_digest
