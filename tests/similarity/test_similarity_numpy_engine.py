from __future__ import annotations

from labelgen.similarity.reference import ReferenceEngine
from labelgen.testing.engines import EngineSuite


class TestNumpyEngine(EngineSuite):
    def make(self) -> ReferenceEngine:
        return ReferenceEngine()
