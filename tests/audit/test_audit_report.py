"""The page of findings: self-contained, nothing of the data escapes its block, decisions make a patch."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.audit.report import report
from labelgen.audit.report.findings import findings_of, proposals
from labelgen.audit.report.report import json_block, policy, render, write_report
from labelgen.audit.report.sections import Section, audit_sections
from labelgen.cli.main import cli
from labelgen.patches.patch import Patch, read, validate
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
    texts = [dict(finding["lines"]).get("caption") for finding in data["findings"]]
    assert EVIL in texts


def test_the_page_loads_nothing(store: Store, sections: list[Section]) -> None:
    page = page_of(store, sections)
    assert not re.search(r"""(?:src|href)\s*=\s*["']|url\(|@import|https?://""", page.replace(json_data(page), ""))
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
    found = [finding for section in sections for finding in findings_of(section, 100)]
    assert [finding.id for finding in found] == [
        *("false_negatives/0", "false_negatives/1", "noisy_pairs/0"),
        *("duplicate_images/0", "duplicate_images/1", "duplicate_images/2"),
    ]
    assert found[0].images == ("img-0", EVIL_FILE)
    assert found[3].decision is None
    decisions = [finding.decision for finding in found if finding.decision]
    made = Patch.of(store, decisions)
    validate(made, store)
    assert [(row["decision"], row.get("into")) for row in made.decisions] == [
        *(("add_positive", None), ("add_positive", None), ("mask_pair", None)),
        *(("merge_duplicates", "img-5"), ("merge_duplicates", "img-5")),
    ]
    assert [row["author"] for row in proposals(sections)] == ["labelgen audit"] * 5


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
    wanted = {image for finding in data["findings"] for image in finding["images"]}
    assert set(data["thumbnails"]) == wanted
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in data["thumbnails"].values())
    bare = write_report(store, made, tmp_path / "b.html", photos=tmp_path / "nowhere").read_text(encoding="utf-8")
    assert json.loads(json_data(bare))["thumbnails"] == {}


def browser_page(playwright: Any, path: Path, tries: list[str]) -> Any:
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 390, "height": 800}, accept_downloads=True)
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else tries.append(request.url),
    )
    page.on("console", lambda message: tries.append(message.text) if message.type == "error" else None)
    page.goto(path.as_uri())
    return page


def test_review_in_chromium(store: Store, sections: list[Section], tmp_path: Path) -> None:
    """Rendering, filter, search, keys, the saved patch, and a caption that tries to inject script."""
    sync = pytest.importorskip("playwright.sync_api", reason="needs playwright and a Chromium")
    if not (shutil.which("chromium-headless-shell") or shutil.which("chromium")):
        pytest.skip("needs a Chromium")
    path, tries = tmp_path / "report.html", []
    path.write_text(page_of(store, sections), encoding="utf-8")
    with sync.sync_playwright() as playwright:
        page = browser_page(playwright, path, tries)
        assert page.title() == "Audit of made"
        assert page.locator("article").count() == 6
        assert EVIL.replace("\u2028", "") in page.locator("article").first.inner_text().replace("\u2028", "")
        pictures = page.locator("article").first.locator("img")
        assert [picture.get_attribute("title") for picture in pictures.all()] == ["img-0", EVIL_FILE]
        assert page.locator("figcaption").all_inner_texts()[:2] == ["image", "annotated image"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.locator("nav").bounding_box()["height"] < 200  # of 800: the cards are what a phone shows
        page.keyboard.press("a")  # the first: accepted
        page.keyboard.press("r")  # the second: rejected
        page.keyboard.press("a")  # the noisy pair
        page.keyboard.press("s")  # a group's first member decides nothing
        page.keyboard.press("j")
        page.keyboard.press("a")
        assert "3 accepted, 1 rejected" in page.locator("#count").inner_text()
        page.select_option("#section", "noisy_pairs")
        assert page.locator("article").count() == 1
        page.select_option("#section", "")
        page.fill("#search", "plain dog")
        assert page.locator("article").count() == 1
        with page.expect_download() as waiting:
            page.click("#save")
        waiting.value.save_as(tmp_path / "patch.json")
        assert page.title() == "Audit of made"
    made = read(tmp_path / "patch.json")
    validate(made, store)
    assert [(row["decision"], row["image_id"]) for row in made.decisions] == [
        ("add_positive", "img-0"),
        ("mask_pair", "img-2"),
        ("merge_duplicates", "img-6"),
    ]
    assert tries == []
