"""Take the pictures of the audit page that the README and the docs show.

    python docs/images/audit_page.py

Builds the demo store in a temporary folder, audits it, and opens the page at 1280 and 390 pixels, light and dark. Needs
playwright and a Chromium that is installed. The photographs are those of the demo set; see NOTICE.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

import labelgen
from labelgen import pipeline
from labelgen.audit.report.report import write_report
from labelgen.audit.report.sections import audit_sections

FOLDER = Path(__file__).parent
#: Width and height in CSS pixels, pixels of the picture to one of them, and whether it is a phone.
DESK, PHONE = (1280, 800, 1.0, False), (390, 844, 1.5, True)


def main() -> None:
    """Build, audit, and save the pictures beside this file."""
    program = shutil.which("chromium") or shutil.which("chromium-headless-shell")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder)
        pipeline.build(pipeline.resolve(dataset="demo"), path / "demo")
        store = labelgen.open(path / "demo")
        page = write_report(store, audit_sections(store), path / "report.html")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            take(opened(browser, page, DESK, scheme), f"audit_1280_{scheme}")
            take(opened(browser, page, PHONE, scheme), f"audit_390_{scheme}")
        phone = opened(browser, page, PHONE, "light")
        phone.locator("article").first.locator("[data-word=accept]").tap()
        phone.locator("article").nth(1).locator("[data-word=reject]").tap()
        take(phone, "audit_390_review")
        shown = opened(browser, page, (1000, 640, 1.5, False), "light")
        shown.keyboard.press("a")
        shown.evaluate("document.querySelector('article').scrollIntoView({block: 'start'})")
        take(shown, "audit_page")
        browser.close()


def opened(browser: Any, page: Path, size: tuple[int, int, float, bool], scheme: str) -> Any:
    """The page in a window of its own."""
    width, height, scale, phone = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
        color_scheme=scheme,
        has_touch=phone,
        is_mobile=phone,
    )
    tab = context.new_page()
    tab.goto(page.as_uri())
    return tab


def take(page: Any, name: str) -> None:
    """Save what the window shows."""
    target = FOLDER / f"{name}.jpg"
    page.screenshot(path=target, type="jpeg", quality=80)
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
