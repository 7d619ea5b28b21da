"""Teachers with OpenVINO: the rows of torch, the same bits however they are run, and torch where that cannot be kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from labelgen import registry
from labelgen.errors import TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.compute import choice, model_cache, openvino_network, requests_at_once
from labelgen.teachers.compute.choice import TOLERANCE, probe_rows
from labelgen.teachers.compute.openvino_network import RuntimeRefusedError
from labelgen.teachers.objects.given_teacher import as_teacher

TEXTS = ["a dog", "two cats, one mat", "", "Ünïcode 東京 🙂", "a red boat waits in the quiet harbour " * 9, "a dog"] * 7


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tiny(
    tiny_sbert: Path, tiny_timm: dict[str, Path], tiny_vision: dict[str, Path], tiny_clip: Path
) -> Mapping[str, Spec]:
    """A spec of every adapter of torch."""
    clip = f"local-dir:{tiny_clip}"
    return {
        "sbert": Spec.of("sbert", model=str(tiny_sbert), batch=8),
        "sbert prompt": Spec.of("sbert", model=str(tiny_sbert), prompt="query: ", max_tokens=32, text="cusa"),
        "timm vit": Spec.of("timm", model="test_vit", checkpoint=str(tiny_timm["test_vit"]), batch=4),
        "timm conv": Spec.of("timm", model="test_efficientnet", checkpoint=str(tiny_timm["test_efficientnet"]), batch=4),
        "vit": Spec.of("transformers", model=str(tiny_vision["vit"]), batch=4),
        "dinov2": Spec.of("transformers", model=str(tiny_vision["dinov2"]), pool="mean", batch=4),
        "clip": Spec.of("transformers", model=str(tiny_vision["clip"]), batch=4),
        "open_clip": Spec.of("open_clip", model=clip, batch=4),
        "open_clip text": Spec.of("open_clip", model=clip, side="text", batch=4),
        "open_clip image": Spec.of("open_clip", model=clip, side="image", batch=4),
    }


NAMES = (
    *("sbert", "sbert prompt", "timm vit", "timm conv", "vit", "dinov2", "clip"),
    *("open_clip", "open_clip text", "open_clip image"),
)


def made(spec: Spec, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of(spec.name, **{**spec.arguments, **arguments}), device="cpu")


def furthest(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    assert first.keys() == second.keys()
    return max(float(np.linalg.norm(first[name] - second[name], axis=1).max()) for name in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_are_those_of_torch(tiny: Mapping[str, Spec], name: str) -> None:
    torch, other = made(tiny[name]), made(tiny[name], runtime="openvino")
    assert (torch.runtime, other.runtime) == ("torch", "openvino")
    assert furthest(probe_rows(torch), probe_rows(other)) < 1e-5
    assert "openvino" in str(other.identity()) and "openvino" not in str(torch.identity())
    if "text" in other.modalities:
        with requests_at_once(3):
            rows = other.encode_texts(TEXTS)
        assert np.array_equal(rows, other.encode_texts(TEXTS))
        assert np.abs(rows - torch.encode_texts(TEXTS)).max() < 1e-5
        assert other.encode_texts([]).shape == (0, other.dim)
