"""Take the picture of the audit page that the README opens with.

    labelgen build --dataset demo --out stores/demo
    labelgen audit stores/demo --html report.html
    python docs/images/audit_page.py report.html

Needs playwright and a Chromium that is installed. The photographs are those of the demo set; see NOTICE.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).with_name("audit_page.jpg")
#: CSS pixels, and pixels of the picture to one of them.
WIDTH, HEIGHT, SCALE = 1000, 640, 1.5


def main() -> None:
    """Open the page, accept the first finding, and save what is around it."""
    browser_path = shutil.which("chromium") or shutil.which("chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=SCALE, color_scheme="light"
        )
        page.goto(Path(sys.argv[1]).absolute().as_uri())
        page.keyboard.press("a")
        page.evaluate("document.querySelector('.card').scrollIntoView({block: 'start'})")
        page.screenshot(path=TARGET, type="jpeg", quality=82)
        browser.close()
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")  # noqa: T201


if __name__ == "__main__":
    main()
