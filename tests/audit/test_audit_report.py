"""The page of findings: self-contained, nothing of the data escapes its block, decisions make a patch."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.audit.report import report
from labelgen.audit.report.evidence_names import EVIDENCE, evidence_name
from labelgen.audit.report.findings import count_of, findings_of, proposals
from labelgen.audit.report.report import json_block, policy, render, write_report
from labelgen.audit.report.sections import Section, audit_sections
from labelgen.cli.main import cli
from labelgen.patches.patch import Patch, read, validate, write
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store

EVIL = (
    "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">@@DATA@@ \u2028 '\"&"
)

#: One white pixel.
PICTURE = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
#: Image ids are file names in many data sets.
EVIL_FILE = "\"><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">.jpg"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return labelgen.open(make_store(tmp_path_factory.mktemp("report") / "s", n_images=12))


@pytest.fixture(scope="module")
def sections() -> list[Section]:
    """Two false negatives, a noisy pair and a group of three images, with texts that try to inject."""
    pairs = pl.DataFrame(
        {
            "rank": [1, 2],
            "score": [2.5, None],
            "image_id": ["img-0", "img-1"],
            "caption_id": ["cap-12", "cap-22"],
            "text": [EVIL, "a plain dog"],
            "annotated_image_id": [EVIL_FILE, "img-4"],
            "image_text": ["x", None],
            "caption_set_max": [0.75, 0.5],
        }
    )
    noisy = pairs.head(1).with_columns(image_id=pl.lit("img-2"), caption_id=pl.lit("cap-11")).drop("annotated_image_id")
    group = pl.DataFrame(
        {"rank": [1] * 3, "score": [0.97] * 3, "group": [7] * 3, "image_id": ["img-5", "img-6", "img-7"]}
    )
    plain = pl.DataFrame({"relation": ["i2t"], "k": [10]})
    return [
        Section("false_negatives", "False negatives", "", pairs, "note", 0.0),
        Section("noisy_pairs", "Noisy pairs", "", noisy, EVIL, 0.0),
        Section("duplicate_images", "Duplicate images", "", group, "", 0.0),
        Section("coverage", "Coverage", "", plain, "", 0.0),
        Section("agreement", "Agreement", "", None, "one teacher", 0.0),
    ]


def page_of(store: Store, sections: list[Section]) -> str:
    found = [finding for section in sections for finding in findings_of(section, 100)]
    return render(store, sections, found, dict.fromkeys(("img-0", EVIL_FILE), PICTURE))


class Tags(HTMLParser):
    """Tags with attributes, and the text of every script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def test_nothing_of_the_data_leaves_its_block(store: Store, sections: list[Section]) -> None:
    parsed = Tags(page_of(store, sections))
    assert len(parsed.scripts) == 2
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "iframe", "object", "link", "base", "form")]
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    data = json.loads(parsed.scripts[0])
    texts = [dict(finding["captions"]).get("candidate caption") for finding in data["findings"]]
    assert EVIL in texts


def test_the_page_loads_nothing(store: Store, sections: list[Section]) -> None:
    page = page_of(store, sections)
    rest = page.replace(json_data(page), "")
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\(|@import|https?://""", rest)
    allowed = policy((Path(report.__file__).with_name("report.html")).read_text(encoding="utf-8"))
    assert f'content="{allowed}"' in page
    assert "default-src 'none'" in allowed
    assert "unsafe" not in allowed
    assert allowed.count("sha256-") == 2


def json_data(page: str) -> str:
    return Tags(page).scripts[0].strip()


def test_json_block_has_no_marks() -> None:
    block = json_block({"a": EVIL})
    assert not set("<>&\u2028\u2029") & set(block)
    assert json.loads(block) == {"a": EVIL}


def test_findings_and_what_accepting_them_means(store: Store, sections: list[Section]) -> None:
    """The first member of a group is shown beside each of the others."""
    found = [finding for section in sections for finding in findings_of(section, 100)]
    assert [finding.id for finding in found] == [
        *("false_negatives/0", "false_negatives/1", "noisy_pairs/0", "duplicate_images/1", "duplicate_images/2"),
    ]
    assert [image for _, image in found[0].images] == ["img-0", EVIL_FILE]
    assert found[0].captions == (("candidate caption", EVIL),)
    assert found[0].annotated == (("annotated captions", "img-0"),)
    assert found[2].captions == (("caption", EVIL),)
    assert found[2].annotated == (("other annotated captions", "img-2"),)
    assert found[4].images == (("image", "img-7"), ("image of the first of the group", "img-5"))
    assert [finding.pair for finding in found] == [False, False, False, True, True]
    made = Patch.of(store, [finding.decision for finding in found if finding.decision])
    validate(made, store)
    assert [(row["decision"], row.get("into")) for row in made.decisions] == [
        *(("add_positive", None), ("add_positive", None), ("mask_pair", None)),
        *(("merge_duplicates", "img-5"), ("merge_duplicates", "img-5")),
    ]
    assert [row["author"] for row in proposals(sections)] == ["labelgen audit"] * 5


def test_groups_are_cut_behind_a_finding() -> None:
    """Two groups of three and one that was filtered to one member: no row is lost, none is shown twice."""
    frame = pl.DataFrame({"group": [1, 1, 1, 2, 2, 2, 3], "image_id": list("abcdefg"), "score": [0.9] * 7})
    for count in range(1, 7):
        found = list(findings_of(Section("duplicate_images", "", "", frame, "", 0.0), count))
        assert [finding.images[0][1] for finding in found] == list("bcefg"[:count])
    assert [len(finding.images) for finding in found] == [2, 2, 2, 2, 1]
    assert found[-1].decision is None
    assert not list(findings_of(Section("duplicate_images", "", "", frame.clear(), "", 0.0), 5))


@pytest.mark.parametrize(
    ("section", "row", "decision"),
    [
        ("caption_leakage", {"split": "train", "other_split": "val"}, {"decision": "drop_caption", "caption_id": "a"}),
        ("caption_leakage", {"split": "test", "other_split": "train"}, {"decision": "drop_caption", "caption_id": "b"}),
        ("image_leakage", {"split": "test", "other_split": "val"}, {"decision": "drop_image", "image_id": "y"}),
        ("hub_captions", {}, {"decision": "drop_caption", "caption_id": "a"}),
        ("hub_images", {}, {"decision": "drop_image", "image_id": "x"}),
        ("isolated_captions", {}, {"decision": "drop_caption", "caption_id": "a"}),
        ("isolated_images", {}, {"decision": "drop_image", "image_id": "x"}),
        ("agreement", {}, {"decision": "drop_caption", "caption_id": "a"}),
    ],
)
def test_every_kind_of_card_can_be_accepted(section: str, row: dict[str, str], decision: dict[str, str]) -> None:
    """Of a leak, the split that is trained on loses the item; `--patch` proposes none of these without a look."""
    ids = {"image_id": ["x"]} if section.endswith("images") else {"image_id": ["x"], "caption_id": ["a"]}
    other = {f"other_{name}": [{"x": "y", "a": "b"}[values[0]]] for name, values in ids.items()} if row else {}
    frame = pl.DataFrame({**ids, **other, **row, "text": ["t"], "score": [0.5]})
    made = Section(section, "", "", frame, "", 0.0)
    (found,) = findings_of(made, 5)
    assert found.accept
    assert found.reject
    assert found.decision == {**decision, "reason": section, "author": "review", "score": 0.5}
    assert found.pair == bool(row)
    assert proposals([made]) == []


def test_evidence_of_an_audit_has_names_and_sentences(demo_store: Path) -> None:
    """Every column of every section: shown elsewhere on the card, or described."""
    keys: set[str] = set()
    sections = list(audit_sections(labelgen.open(demo_store), limit=50))
    for section in sections:
        found = list(findings_of(section, 50))
        assert len(found) <= count_of(section)
        assert all(finding.decision and finding.accept and finding.reject for finding in found)
        keys |= {key for finding in found for key, _ in finding.evidence}
    assert {"sets", "image_consistency", "group_images", "listed"} <= keys
    assert not keys - set(EVIDENCE)
    assert all(sentence.endswith(".") and "_" not in name for name, sentence in EVIDENCE.values())
    assert evidence_name("their_own") == ("their own", "")
    assert sum(map(count_of, sections)) > 50


def test_command_writes_page_and_patch(store: Store, tmp_path: Path) -> None:
    run = CliRunner()
    page, proposed = tmp_path / "report.html", tmp_path / "proposed.json"
    parts = ["--section", "false_negatives", "--section", "duplicate_captions"]
    done = run.invoke(cli, ["audit", str(store.path), *parts, "--html", str(page), "--patch", str(proposed)])
    assert done.exit_code == 0, done.output
    assert store.manifest.store_id in page.read_text(encoding="utf-8")
    checked = run.invoke(cli, ["audit", str(store.path), "--check", str(proposed), "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["decisions"]["add_positive"] > 0
    first, second, *_ = read(proposed).decisions
    rejected = {**first, "decision": "reject_add_positive", "author": "ann"}
    reviewed = write(
        Patch.of(store, [rejected, {"decision": "reject_drop_image", "image_id": "img-3"}]), tmp_path / "r.json"
    )
    parts = ["--section", "false_negatives", "--reviewed", str(reviewed), "--html", str(page), "--patch", str(proposed)]
    done = run.invoke(cli, ["audit", str(store.path), *parts])
    assert done.exit_code == 0, done.output
    assert read(proposed).decisions[0] == second
    assert read(proposed).decisions[-2] == rejected
    assert len(json.loads(json_data(page.read_text(encoding="utf-8")))["patch"]) == 2
    alone = run.invoke(cli, ["audit", str(store.path), "--reviewed", str(reviewed)])
    assert alone.exit_code == 2
    assert "--html" in alone.output
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": 1, "store_id": "another", "decisions": []}))
    assert run.invoke(cli, ["audit", str(store.path), "--check", str(other)]).exit_code == 5
    other.write_text("{}")
    assert run.invoke(cli, ["audit", str(store.path), "--check", str(other)]).exit_code == 3


def test_pictures_of_the_demo_set(demo_store: Path, tmp_path: Path) -> None:
    """Thumbnails come from the data set that the recipe names, or from a folder; without one the page has none."""
    store = labelgen.open(demo_store)
    made = list(audit_sections(store, ["false_negatives"], limit=20))
    page = write_report(store, made, tmp_path / "a.html").read_text(encoding="utf-8")
    data = json.loads(json_data(page))
    assert len(data["findings"]) == 20
    wanted = {image for finding in data["findings"] for _, image in finding["images"]}
    assert set(data["thumbnails"]) == wanted
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data["thumbnails"].values())
    bare = write_report(store, made, tmp_path / "b.html", photos=tmp_path / "nowhere").read_text(encoding="utf-8")
    assert json.loads(json_data(bare))["thumbnails"] == {}


def test_hostile_texts_in_a_browser(store: Store, sections: list[Section], tmp_path: Path, chromium: Any) -> None:
    """A caption, an image id and a note that try to inject a script are text, and nothing is loaded."""
    path, tries = tmp_path / "report.html", []
    path.write_text(page_of(store, sections), encoding="utf-8")
    page = chromium.new_page()
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else tries.append(request.url),
    )
    page.on("console", lambda message: tries.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: tries.append(str(error)))
    page.goto(path.as_uri())
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    first = page.locator("article").first
    assert EVIL.replace("\u2028", "") in first.inner_text().replace("\u2028", "")
    assert [picture.get_attribute("title") for picture in first.locator("img").all()] == ["img-0", EVIL_FILE]
    assert EVIL_FILE in first.locator("dl").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.title() == "Audit of made"
    assert tries == []
