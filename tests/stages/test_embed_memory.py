"""`--memory` bounds how many batches of photographs are worked on at once; the rows do not depend on it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.stages.running import worker
from labelgen.stages.running.memory import anonymous_bytes
from labelgen.stages.running.worker import WorkerSettings
from labelgen.stages.work import embed

pytest.importorskip("torch", reason="needs the extra labelgen[build]")
BATCH_BYTES = 80 << 20


class Hungry:
    """A teacher whose batches of two take 80 MiB each for a while, and that counts how many are at work."""

    image_batch = 2

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    def prepare_image(self, image: Image.Image) -> Any:
        return np.asarray(image.resize((2, 2)))

    def encode_images(self, prepared: list[Any]) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        held = np.ones(BATCH_BYTES // 8)
        time.sleep(0.08)
        with self._lock:
            self._now -= 1
        return np.stack([item.reshape(-1) for item in prepared]).astype(np.float32) * held[0]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(24):
        Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)).save(tmp_path / f"{number}.png")
    return tmp_path


def rows(photos: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, int]:
    monkeypatch.setattr(worker, "_settings", WorkerSettings("cpu", 4, memory))
    teacher = Hungry()
    batches = embed._encoded_batches(teacher, photos, [f"{number}.png" for number in range(24)])  # type: ignore[arg-type]
    return np.concatenate([batch.rows for batch in batches]), teacher.most


@pytest.mark.skipif(not anonymous_bytes(), reason="anonymous memory is read from /proc")
def test_as_many_batches_at_once_as_fit(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plenty, most = rows(photos, 64 << 30, monkeypatch)
    assert most > 2
    little, fewest = rows(photos, anonymous_bytes() + BATCH_BYTES + BATCH_BYTES // 2, monkeypatch)
    assert fewest == 1
    np.testing.assert_array_equal(little, plenty)
    _, two = rows(photos, anonymous_bytes() + 2 * BATCH_BYTES + BATCH_BYTES // 2, monkeypatch)
    assert two <= 2
