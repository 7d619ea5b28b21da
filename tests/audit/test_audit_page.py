"""The review page in a browser, of the demo store: with keys, by touch on a phone, with a patch, light and dark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import labelgen
from labelgen.audit.report.report import write_report
from labelgen.audit.report.sections import Section, audit_sections
from labelgen.errors import StoreMismatchError
from labelgen.patches.patch import Patch, read, validate, write
from labelgen.store.reader import Store

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def store(demo_store: Path) -> Store:
    return labelgen.open(demo_store)


@pytest.fixture(scope="module")
def sections(store: Store) -> list[Section]:
    return list(audit_sections(store, limit=60))


@pytest.fixture(scope="module")
def report(store: Store, sections: list[Section], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(store, sections, tmp_path_factory.mktemp("page") / "report.html")


def opened(chromium: Any, path: Path, where: str = "", **options: Any) -> Any:
    """The page in a new context, which has an empty storage."""
    page = chromium.new_context(accept_downloads=True, **options).new_page()
    page.goto(path.as_uri() + where)
    return page


def saved(page: Any, target: Path) -> Patch:
    with page.expect_download() as waiting:
        page.locator("#save").click()
    waiting.value.save_as(target)
    return read(target)


def pairs(sections: list[Section], name: str) -> list[tuple[str, str]]:
    frame = next(section.frame for section in sections if section.name == name)
    assert frame is not None
    return frame.select("image_id", "caption_id").rows()


def named(patch: Patch) -> list[tuple[str | None, ...]]:
    return [(row["decision"], row.get("image_id"), row.get("caption_id")) for row in patch.decisions]


def test_review_with_keys(report: Path, store: Store, sections: list[Section], tmp_path: Path, chromium: Any) -> None:
    """Accept, reject, skip, undo, move, change a verdict; the patch has both verdicts and fits the store."""
    page = opened(chromium, report)
    assert page.locator("#keys").is_visible()
    assert page.locator("article").first.locator(".label").all_inner_texts() == [
        *("candidate caption", "annotated captions"),
    ]
    page.keyboard.press("a")  # the first
    page.keyboard.press("r")  # the second
    page.keyboard.press("s")  # the third
    page.keyboard.press("A")  # the fourth, with the shift key
    page.keyboard.press("u")  # undone: the fourth is the current one again
    page.keyboard.press("r")
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("r")  # the first, which was accepted
    page.keyboard.press("a")  # the second, which was rejected
    page.keyboard.press("u")
    assert page.locator("article .head b").all_inner_texts()[:2] == ["rejected", "rejected"]
    page.keyboard.press("a")
    assert page.locator("#totals").inner_text() == "1 accepted, 2 rejected"
    assert page.locator("article .head b").all_inner_texts()[:4] == ["rejected", "accepted", "", "rejected"]
    assert page.locator(".tile .done").first.inner_text() == "3 reviewed"
    made = saved(page, tmp_path / "patch.json")
    validate(made, store)
    first, second, _, fourth, *_ = pairs(sections, "false_negatives")
    assert named(made) == [
        ("reject_add_positive", *first),
        ("add_positive", *second),
        ("reject_add_positive", *fourth),
    ]
    page.reload()
    assert page.locator("#totals").inner_text() == "1 accepted, 2 rejected"
    page.keyboard.press("u")  # nothing to undo after a visit
    assert page.locator("#undo").is_disabled()


def test_filter_search_and_links(report: Path, chromium: Any) -> None:
    page = opened(chromium, report, "#isolated_images")
    assert page.locator("#section").input_value() == "isolated_images"
    assert page.locator("h2").first.inner_text().startswith("Isolated images")
    page.locator(".tile", has_text="Noisy pairs").click()
    assert page.url.endswith("#noisy_pairs")
    page.keyboard.press("a")
    page.select_option("#verdict", "accept")
    assert page.locator("article").count() == 1
    page.select_option("#verdict", "open")
    page.select_option("#section", "")
    page.keyboard.press("/")
    page.keyboard.type("FRISBEE")
    texts = [text.lower() for text in page.locator("article").all_inner_texts()]
    assert texts
    assert all("frisbee" in text for text in texts)
    page.fill("#search", "no such words")
    assert page.locator("#cards").inner_text() == "no findings"


def test_more_cards_follow(report: Path, sections: list[Section], chromium: Any) -> None:
    """Keys and scrolling reach cards that are not drawn at first, of the next section, too."""
    page = opened(chromium, report)
    assert page.locator("article").count() < 60
    for _ in range(65):
        page.keyboard.press("j")
    assert page.locator("article.now .head").inner_text().startswith("Noisy pairs 6 ")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.wait_for_function("document.querySelectorAll('article').length > 100")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_review_by_touch(
    scheme: str, report: Path, store: Store, sections: list[Section], tmp_path: Path, chromium: Any
) -> None:
    """On a phone the first photograph and its caption are in view, what is tapped is large, and nothing overflows."""
    page = opened(chromium, report, color_scheme=scheme, **PHONE)
    card = page.locator("article").first
    assert card.locator("img").first.bounding_box()["y"] < 300
    assert card.locator("img").first.bounding_box()["width"] > 250
    assert card.locator(".text").bounding_box()["y"] < 740, "the candidate caption is above the bar"
    assert not page.locator("kbd").first.is_visible()
    assert page.evaluate(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    card.locator("[data-word=accept]").tap()
    page.locator("article").nth(1).locator("[data-word=reject]").tap()
    assert page.locator("#said").inner_text() == "rejected: False negatives 2"
    assert page.locator("#count").inner_text().startswith("2 of ")
    assert page.locator("article").nth(2).bounding_box()["y"] < 50, "the next card is in view"
    page.locator("#undo").tap()
    assert page.locator("#totals").inner_text() == "1 accepted, 0 rejected"
    assert page.locator("article").nth(1).bounding_box()["y"] < 50
    page.locator("article").nth(1).locator("[data-word=reject]").tap()
    page.locator("#rest summary").tap()
    page.locator(".tile", has_text="Isolated captions").tap()
    page.locator("article").first.locator("[data-word=accept]").tap()
    page.locator("article").nth(1).locator("summary").tap()
    assert "Similarity of the most similar item" in page.locator("article").nth(1).inner_text()
    page.locator("#about summary").tap()
    small = "[...document.querySelectorAll('button, a, select, input, summary')].filter(node => node.offsetParent"
    small += " && node.getBoundingClientRect().height < 44).map(node => node.outerHTML)"
    assert page.evaluate(small) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    made = saved(page, tmp_path / "patch.json")
    validate(made, store)
    first, second, *_ = pairs(sections, "false_negatives")
    assert named(made)[:2] == [("add_positive", *first), ("reject_add_positive", *second)]
    alone = pairs(sections, "isolated_captions")[0][1]
    assert named(made)[2:] == [("drop_caption", None, alone)]


def test_a_page_with_a_patch(store: Store, sections: list[Section], tmp_path: Path, chromium: Any) -> None:
    """Verdicts come back, rejections too; decisions about other things are kept; what is changed is changed."""
    first, second, third, *_ = pairs(sections, "false_negatives")
    rows = [
        {"decision": "reject_add_positive", "image_id": first[0], "caption_id": first[1], "author": "ann"},
        {"decision": "add_positive", "image_id": second[0], "caption_id": second[1], "reason": "seen"},
        {"decision": "reject_add_positive", "image_id": third[0], "caption_id": third[1]},
        {"decision": "merge_duplicates", "image_id": store.image_ids([70])[0], "into": store.image_ids([71])[0]},
        {"decision": "reject_mask_pair", "image_id": store.image_ids([3])[0], "caption_id": store.caption_ids([99])[0]},
    ]
    file = write(Patch.of(store, rows), tmp_path / "earlier.parquet")
    path = write_report(store, sections, tmp_path / "page.html", patch=file)
    page = opened(chromium, path)
    assert page.locator("article .head b").all_inner_texts()[:4] == ["rejected", "accepted", "rejected", ""]
    assert page.locator("#totals").inner_text() == "1 accepted, 2 rejected, 2 more in the patch"
    assert saved(page, tmp_path / "same.json").decisions == rows
    page.keyboard.press("j")
    page.keyboard.press("r")
    page.keyboard.press("s")
    changed = saved(page, tmp_path / "changed.json")
    assert [row["decision"] for row in changed.decisions] == [
        *("reject_add_positive", "merge_duplicates", "reject_mask_pair", "reject_add_positive"),
    ]
    assert (changed.decisions[-1]["image_id"], changed.decisions[-1]["caption_id"]) == second
    page.reload()
    assert page.locator("article .head b").all_inner_texts()[:4] == ["rejected", "rejected", "", ""]
    with pytest.raises(StoreMismatchError):
        write_report(store, sections, tmp_path / "other.html", patch=Patch.of("other", rows))
    assert not (tmp_path / "other.html").exists()


def test_contradictions_are_refused_where_they_are_made(store: Store, tmp_path: Path, chromium: Any) -> None:
    """A page never saves a patch that `read` refuses: an item cannot be dropped and be part of another decision."""
    image, other = store.image_ids([0, 30])
    caption = store.caption_ids([150])[0]
    pair = pl.DataFrame({"image_id": [image], "caption_id": [caption], "text": ["t"], "annotated_image_id": [other]})
    single = pl.DataFrame({"image_id": [image]})
    group = pl.DataFrame({"group": [1, 1], "image_id": [image, other]})
    made = [
        Section("false_negatives", "False negatives", "", pair, "", 0.0),
        Section("hub_images", "Hub images", "", single, "", 0.0),
        Section("isolated_images", "Isolated images", "", single, "", 0.0),
        Section("duplicate_images", "Duplicate images", "", group, "", 0.0),
    ]
    page = opened(chromium, write_report(store, made, tmp_path / "page.html"))
    page.keyboard.press("a")  # the pair
    page.keyboard.press("a")  # the image, which the pair names
    assert "False negatives 1" in page.locator("#said.wrong").inner_text()
    assert page.locator("#totals").inner_text() == "1 accepted, 0 rejected"
    page.keyboard.press("k")
    page.keyboard.press("r")
    page.keyboard.press("a")
    page.keyboard.press("j")
    assert page.locator("article .head b").all_inner_texts() == ["rejected", "accepted", "accepted", ""]  # one decision
    page.keyboard.press("a")  # the group, whose first member is dropped
    assert "drop_image" in page.locator("#said.wrong").inner_text()
    done = saved(page, tmp_path / "patch.json")
    validate(done, store)
    assert [row["decision"] for row in done.decisions] == ["reject_add_positive", "drop_image"]
    assert json.loads((tmp_path / "patch.json").read_text())["format"] == 2
