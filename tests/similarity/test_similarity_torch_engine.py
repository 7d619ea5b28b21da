from __future__ import annotations

from labelgen.similarity.torch import TorchEngine
from labelgen.testing.engines import EngineSuite


class TestTorchEngine(EngineSuite):
    def make(self) -> TorchEngine:
        return TorchEngine()
