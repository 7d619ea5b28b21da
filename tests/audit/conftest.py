"""A Chromium for tests of the review page, where playwright and a Chromium are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def chromium() -> Iterator[Any]:
    """A browser, closed after the test: an open one keeps an event loop running."""
    sync: Any = pytest.importorskip("playwright.sync_api", reason="needs playwright and a Chromium")
    program = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if not program:
        pytest.skip("needs a Chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()
