"""Fixtures of the tests of engines."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def tiled_at_any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the tiled engine are small; without this it would leave them to the reference engine."""
    if "tiled" in request.path.name:
        monkeypatch.setattr("labelgen.similarity.tiled.engine._LEAST_ROWS", 1)
