from __future__ import annotations

from labelgen.similarity.reference import NumpyEngine
from labelgen.testing.engines import EngineSuite


class TestNumpyEngine(EngineSuite):
    def make(self) -> NumpyEngine:
        return NumpyEngine()
