from __future__ import annotations

import pytest

from labelgen.similarity import fused
from labelgen.similarity.fused import FusedEngine
from labelgen.testing.engines import EngineSuite


class TestFusedEngine(EngineSuite):
    def make(self) -> FusedEngine:
        return FusedEngine()
