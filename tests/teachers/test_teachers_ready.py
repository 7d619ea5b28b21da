"""Bundled teachers on OpenVINO from the user's cache: the same rows and identity, without torch."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("openvino")

from labelgen.teachers.adapters import ready
from labelgen.teachers.adapters.lite import LITE_SCALING
from labelgen.teachers.adapters.sentence_passes import Tokens
from labelgen.teachers.adapters.sentences import load_model
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import _texts
from labelgen.teachers.packages import minilm_folder

SLOW = ("torch", "torchvision", "timm", "transformers", "sentence_transformers")
MADE = """
import hashlib, json, sys
from labelgen.teachers.adapters.bundled import efficientnet_lite, minilm
from labelgen.teachers.compute import choice
teachers = [minilm(runtime="openvino"), efficientnet_lite(size=0, runtime="openvino")]
found = {"modules": list(sys.modules), "identities": [teacher.identity() for teacher in teachers]}
rows = [choice.probe_rows(teacher) for teacher in teachers]
found["rows"] = [hashlib.sha256(b"".join(r[name].tobytes() for name in sorted(r))).hexdigest() for r in rows]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(cache: Path, code: str, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def first(cache: Path) -> dict[str, Any]:
    return run(cache, MADE)


def test_the_second_use_needs_no_torch_and_gives_the_same(cache: Path, first: dict[str, Any]) -> None:
    assert set(SLOW) <= set(first["modules"])
    again = run(cache, MADE)
    assert not [name for name in SLOW if name in again["modules"]]
    assert again["rows"] == first["rows"]
    assert again["identities"] == first["identities"]


def test_what_is_damaged_in_the_cache_is_made_again(cache: Path, first: dict[str, Any]) -> None:
    folder = cache / "labelgen" / "openvino"
    records = {path: json.loads(path.read_text("utf-8"))["record"] for path in folder.glob("*.json")}
    assert len(records) == 2
    for path, record in records.items():
        if "tokenizer" in record:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace('"limits": [512', '"limits": [513', 1), encoding="utf-8")
            assert path.read_text("utf-8") != text
        else:
            network = folder / record["network"] / "model.bin"
            network.write_bytes(network.read_bytes()[:-1])
    again = run(cache, MADE)
    assert set(SLOW) <= set(again["modules"])
    assert again["rows"] == first["rows"]
    assert again["identities"] == first["identities"]
    assert not [name for name in SLOW if name in run(cache, MADE)["modules"]]


BUILT = """
import json, sys
from labelgen.cli.main import main
sys.argv = ["labelgen", "build", "--dataset", "demo", "--teacher", "image=efficientnet_lite(size=0)", "--progress",
            "none", "--out", sys.argv[1]]
try:
    main()
finally:
    print(json.dumps({"modules": list(sys.modules)}))
"""


def test_a_small_build_needs_no_torch(cache: Path, first: dict[str, Any], tmp_path: Path) -> None:
    run(cache, BUILT, str(tmp_path / "store"))  # which compares the image teacher with torch's rows
    found = run(cache, BUILT, str(tmp_path / "again"))
    assert not [name for name in SLOW if name in found["modules"]]
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text("utf-8")) for name in ("store", "again")]
    assert manifests[0]["content_digest"] == manifests[1]["content_digest"]


def test_tokens_are_those_of_the_library() -> None:
    model = load_model(str(minilm_folder()))
    draw = random.Random(0)
    texts = [
        *_texts(12),
        " x ",
        "\u00a0\u2003",
        "a\x00b\ufffd\u200d",
        "don't (stop) -- e\u0301\u00e9 \u0130\u1e9e",
        "[SEP] [CLS]",
    ]
    texts += ["".join(chr(draw.randrange(1, 0xD000)) for _ in range(draw.randrange(1, 60))) for _ in range(200)]
    model.preprocess(["a"])
    tokens = Tokens(model.tokenizer.backend_tokenizer.to_str(), ["input_ids", "token_type_ids", "attention_mask"])
    for start in range(0, len(texts), 7):
        wanted, found = (
            model.preprocess(texts[start : start + 7]),
            tokens.inputs(tokens.split(texts[start : start + 7])),
        )
        for name, ids in found.items():
            assert np.array_equal(ids, wanted[name].numpy()), (name, texts[start : start + 7])


def test_pixels_are_scaled_to_the_bits_of_torch() -> None:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 20, 30), np.uint8)
    assert np.array_equal(LITE_SCALING.of_array(pixels), LITE_SCALING(torch.from_numpy(pixels)).numpy())


def test_files_of_another_content_are_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is asked for the bytes of the files, not for their place."""
    import shutil

    folder = Path(shutil.copytree(minilm_folder(), tmp_path / "model"))
    compute = Compute("float32", 32, 64, runtime="openvino")
    keys = list[str]()
    monkeypatch.setattr(ready.model_cache, "read_record", keys.append)
    monkeypatch.setattr(ready.model_cache, "keep_record", lambda _key, _record: None)
    ready.sentences(minilm_folder(), text="none", compute=compute)
    ready.sentences(folder, text="none", compute=compute)
    settings = folder / "tokenizer_config.json"
    settings.write_text(settings.read_text("utf-8") + " ", "utf-8")
    ready.sentences(folder, text="none", compute=compute)
    assert keys[0] == keys[1] != keys[2]
