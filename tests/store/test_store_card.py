"""The card: escaped Markdown, and Croissant that its own library accepts and reads."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from labelgen.fingerprint import digest_file
from labelgen.store.manifest import load_manifest, save_manifest
from labelgen.store.readme.croissant import render_croissant, table_paths
from labelgen.store.readme.readme import render_readme, write_card
from labelgen.store.splits import SplitRows

CHECK = """
import json, logging, sys

messages = []
class Kept(logging.Handler):
    def emit(self, record):
        messages.append(record.getMessage())
logging.getLogger("absl").addHandler(Kept())
import mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
issues = dataset.metadata.ctx.issues
records = {name: list(dataset.records(name)) for name in ("images", "captions", "quarantine")}
print(json.dumps({
    "errors": sorted(issues.errors),
    "warnings": sorted(issues.warnings) + [message for message in messages if "not standard" in message],
    "name": dataset.metadata.name,
    "counts": {name: len(rows) for name, rows in records.items()},
    "first": records["captions"][0]["captions/caption_id"].decode(),
}))
"""


@pytest.mark.parametrize("known", [True, False])
def test_croissant_is_valid_and_readable(broken: Path, known: bool) -> None:
    """In a process of its own: mlcroissant brings a logger and warnings that are not ours."""
    about = {"name": "made", "licence": "CC-BY-4.0", "citation": "@misc{made}", "url": "https://example.org/made"}
    manifest = load_manifest(broken)
    if known:
        manifest = replace(manifest, corpus=replace(manifest.corpus, about=about))
    write_card(broken, manifest)
    command = [sys.executable, "-W", "ignore", "-c", CHECK, str(broken / "croissant.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["errors"] == []
    assert found["counts"] == {"images": 8, "captions": 24, "quarantine": 3}
    assert found["first"] == "cap-0"
    missing = [] if known else ["citeAs", "license"]  # what is not known cannot be said
    assert [name for name in ("citeAs", "license") if any(name in text for text in found["warnings"])] == missing
    assert len(found["warnings"]) == len(missing)


def test_the_card_is_a_function_of_the_manifest(broken: Path) -> None:
    manifest = load_manifest(broken)
    files = {path: fact for path, fact in manifest.files.items() if path not in ("README.md", "croissant.json")}
    facts = write_card(broken, replace(manifest, files=files))
    assert facts == {path: manifest.files[path] for path in facts}
    assert facts["README.md"].blake3 == digest_file(broken / "README.md")
    assert list(facts) == ["README.md", "croissant.json"]


def test_the_readme_says_what_is_there(made_store: Path) -> None:
    text = (made_store / "README.md").read_text()
    for part in (
        "# Soft labels for made",
        "8 images, 24 captions",
        "| train | 6 | 0 to 5 |",
        "| clip | random(dim=12) | image and text | 12 |",
        "| neighbors/t2i.text.k4 | caption -&gt; images | text | max | split | 4 |",
        "| embed | truncated | 1 |",
        "licence: not known",
    ):
        assert part in text
    assert load_manifest(made_store).content_digest in text


def test_markdown_is_escaped(broken: Path) -> None:
    """Split names, specs and reasons come from outside; README files are shown as HTML."""
    manifest = load_manifest(broken)
    evil = "<img src=x onerror=alert(1)> | `code`\n# [x](javascript:alert(1))"
    corpus = replace(manifest.corpus, about={"name": evil, "licence": evil}, splits={evil: SplitRows([range(8)])})
    reasons = ({"stage": "ingest", "reason": evil, "count": 3},)
    changed = replace(manifest, corpus=corpus, quarantine=replace(manifest.quarantine, by_reason=reasons))
    text = render_readme(changed)
    assert "<img" not in text
    assert "[x]" not in text
    assert "\n# [" not in text
    assert text.count("\n# ") + text.startswith("# ") == 1
    rows = [line for line in text.splitlines() if line.startswith("| ") and "onerror" in line]
    assert [line.count("|") for line in rows] == [4, 4]


def test_croissant_counts_changes_as_versions(made_store: Path) -> None:
    manifest = load_manifest(made_store)
    checksums = dict.fromkeys(table_paths(manifest), "0" * 64)
    assert render_croissant(manifest, checksums)["version"] == "1.0.0"
    assert render_croissant(replace(manifest, history=({"when": "now"},)), checksums)["version"] == "1.1.0"


def test_a_store_of_images_only(tmp_path: Path) -> None:
    """No captions at all: the example in the card is one that works."""
    from labelgen.testing.stores import make_store

    root = make_store(tmp_path / "store", n_images=4, captions_per_image=0, dims={"image": 4})
    assert 'store.block("i2i", image_ids)' in (root / "README.md").read_text()
    assert save_manifest(root, load_manifest(root))
