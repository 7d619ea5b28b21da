"""Texts of a store are shown, not obeyed: on terminals, in README.md, in exported YAML, in the page of the audit."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

import labelgen
from labelgen.audit.report.report import write_report
from labelgen.audit.report.sections import audit_sections
from labelgen.cli.main import cli
from labelgen.errors import StoreError, visible
from labelgen.export.targets import export
from labelgen.fingerprint import digest_file
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.parquet import read_frame, write_frame
from labelgen.store.manifest import content_digest, load_manifest, save_manifest
from labelgen.store.readme.readme import render_readme, write_card

#: Clears the screen, rings, writes over the line, turns the direction of writing, and hides a link in a word.
EVIL = "\x1b[2J\x1b[31m\x07\r\x9b1m\u202e\u2066\x1b]8;;http://evil.example\x07click\x1b]8;;\x07\x7f<script>alert(1)</script>"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def hostile(received: Path) -> Path:
    """A store whose every free text is hostile, sealed as it should be."""
    images, captions = received / "corpus" / "images.parquet", received / "corpus" / "captions.parquet"
    write_frame(
        images, read_frame(images).with_columns(pl.lit(EVIL).alias("category"), pl.lit(f"{EVIL}.jpg").alias("file"))
    )
    write_frame(captions, read_frame(captions).with_columns(pl.col("text") + EVIL))
    manifest = load_manifest(received)
    teachers = {alias: replace(entry, spec=f"random('{EVIL}')") for alias, entry in manifest.teachers.items()}
    corpus = replace(manifest.corpus, about={"name": EVIL, "licence": f"[x](http://evil) {EVIL}"})
    neighbors = (replace(manifest.neighbors[0], approximate=True, facts={"recall": EVIL}), *manifest.neighbors[1:])
    recipe = {"dataset": {"name": EVIL}, "teachers": {"text": EVIL}}
    manifest = replace(manifest, teachers=teachers, corpus=corpus, neighbors=neighbors, recipe=recipe, labelgen=EVIL)
    neighbors = (replace(neighbors[0], approximate=False), *neighbors[1:])
    manifest = replace(manifest, neighbors=neighbors)
    files = {**manifest.files, **write_card(received, manifest)}
    for path in ("corpus/images.parquet", "corpus/captions.parquet"):
        files[path] = FileFact((received / path).stat().st_size, digest_file(received / path))
    save_manifest(received, replace(manifest, files=files, content_digest=content_digest(files)))
    return received


@pytest.mark.parametrize(
    "command",
    [
        ["inspect", "."], ["inspect", ".", "--image", "img-0"], ["inspect", ".", "--caption", "cap-0", "--json"],
        ["inspect", ".", "--json"], ["verify", "."], ["status", "."], ["audit", "."], ["audit", ".", "--json"],
        ["diff", ".", "."], ["inspect", ".", "--image", EVIL], ["inspect", f"./{EVIL[:9]}"],
        ["build", "--out", ".", "--update", "--k", "3"], ["--debug", "inspect", ".", "--image", EVIL],
        ["build", "--dataset", EVIL], ["verify", ".", "--json"],
    ],
)  # fmt: skip
def test_no_command_prints_what_a_terminal_obeys(hostile: Path, command: list[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(hostile)
    result = CliRunner().invoke(cli, command)
    assert result.exit_code != 70, result.output
    assert not OBEYED.search(result.output), result.output


def test_errors_and_reprs_in_a_console(hostile: Path) -> None:
    store = labelgen.open(hostile)
    assert not OBEYED.search(repr(store))
    assert not OBEYED.search(store._repr_html_())
    assert "<script>" not in store._repr_html_()
    assert not OBEYED.search(str(StoreError(EVIL, found=EVIL, expected=EVIL, todo=EVIL)))
    assert visible("a\x1b[0m\nb", lines=True) == "a\\x1b[0m\nb"


def test_the_card(hostile: Path) -> None:
    text = render_readme(load_manifest(hostile))
    assert not OBEYED.search(text)
    assert "<script>" not in text
    assert "[x](http" not in text
    assert not OBEYED.search((hostile / "README.md").read_text())
    assert json.loads((hostile / "croissant.json").read_text())["name"].endswith(EVIL)


def test_yaml_of_an_export(forge: Any, tmp_path: Path) -> None:
    """`no`, `1e3` and `null` are split names, and no truth values, numbers or nothing."""

    def renamed(document: dict[str, Any]) -> None:
        document["corpus"]["splits"] = {"no": [0, 2], "1e3": [2, 4], "null": [4, 6], "val": [6, 8]}
        document["teachers"]["text"]["spec"] = f"random('`{EVIL}')\n---\nevil: true"

    export(labelgen.open(forge(renamed)), "hf", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head.keys() == {"configs"}
    splits = [[file["split"] for file in entry["data_files"]] for entry in head["configs"]]
    assert splits == [["no", "1e3", "null", "validation"]] * len(splits)
    assert all((tmp_path / "out" / f["path"]).is_file() for entry in head["configs"] for f in entry["data_files"])
    assert not OBEYED.search(card)
    assert "<script>" not in card


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_of_the_audit(hostile: Path, sound_store: Path, tmp_path: Path) -> None:
    """Hostile captions add no tag and no attribute to the page of a sound store."""
    pages = {}
    for name, path in (("hostile", hostile), ("sound", sound_store)):
        store = labelgen.open(path)
        write_report(store, list(audit_sections(store)), tmp_path / name)
        parser = _Tags()
        parser.feed((tmp_path / name).read_text())
        pages[name] = [tag for tag, _ in parser.found]
        assert not any(key.startswith("on") for _, attributes in parser.found for key in attributes)
    assert pages["hostile"].count("script") == pages["sound"].count("script")
    assert set(pages["hostile"]) == set(pages["sound"])


def test_facts_that_are_no_facts(forge: Any) -> None:
    """Free tables of a manifest may hold anything: what is told of them never fails."""

    def odd(document: dict[str, Any]) -> None:
        document["neighbors"][0].update(approximate=True, facts={"recall": [1, EVIL]})
        document["neighbors"][0]["path"] = "neighbors/t2t.text.k4"
        document["teachers"]["text"].update(training={"auc": EVIL, "fit": 3})

    path = forge(odd)
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        result = CliRunner().invoke(cli, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert "approximate" in result.output
    assert render_readme(load_manifest(path))
