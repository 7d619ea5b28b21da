"""sbert and its relatives, against a forward pass written out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import ConfigError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.base import TextTeacher, info_of
from labelgen.teachers.packages import minilm_folder
from labelgen.teachers.text import text_step
from labelgen.testing.teachers import TextTeacherSuite
from labelgen.types import Float32


def by_hand(folder: Path, texts: Sequence[str], max_tokens: int) -> Float32:
    """One text at a time, so without padding: mean of the last hidden states, scaled to length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
        with torch.inference_mode():
            mean = network(**tokens).last_hidden_state[0].double().mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows).astype(np.float32)


class TestSbert(TextTeacherSuite):
    @pytest.fixture(autouse=True)
    def _folder(self, tiny_sbert: Path, tiny_bert: Path) -> None:
        self.folder, self.plain = tiny_sbert, tiny_bert

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("sbert", **{"model": str(self.folder), **changes})

    def variants(self) -> Mapping[str, Spec]:
        return {
            "text step": self.spec(text="cusa"),
            "precision": self.spec(precision="bfloat16"),
            "batch": self.spec(batch=2),
            "block": self.spec(block=7),
            "weights": Spec("minilm"),
        }

    def oracle(self, texts: Sequence[str]) -> Float32:
        return by_hand(self.plain, texts, 64)

    def test_is_a_text_teacher(self) -> None:
        assert isinstance(self.teacher(), TextTeacher)
        assert self.teacher().modalities == {"text"}

    def test_text_step_is_applied(self) -> None:
        rows = self.make(self.spec(text="cusa")).encode_texts(["TWO dogs!", "two dogs", "..."])
        np.testing.assert_array_equal(rows[0], rows[1])
        self.compare(rows, self.oracle(["two dogs", "two dogs", ""]))

    def test_plain_transformers_folder_gets_mean_pooling(self) -> None:
        rows = self.make(self.spec(model=str(self.plain))).encode_texts(self.texts)
        self.compare(rows, self.oracle(self.texts))

    def test_bfloat16_rows_are_float32_of_length_one_and_near(self) -> None:
        rows = self.make(self.spec(precision="bfloat16")).encode_texts(self.texts)
        self.check_unit_rows(rows, len(self.texts))
        cosines = (rows * self.teacher().encode_texts(self.texts)).sum(1)
        assert cosines.min() > 0.999
        assert cosines.min() < 1 - 1e-7  # it did compute in bfloat16

    def test_device_does_not_belong_to_the_identity(self) -> None:
        assert "device" not in str(self.teacher().identity())
        assert str(self.folder) not in str(self.teacher().identity())


class TestMinilm(TextTeacherSuite):
    tolerance = 1e-6

    def spec(self, **changes: Any) -> Spec:
        return Spec.of("minilm", **changes)

    def oracle(self, texts: Sequence[str]) -> Float32:
        return by_hand(minilm_folder(), texts, 256)

    def test_equals_one_call_of_the_library(self) -> None:
        """Same texts, same batches: the same bits as `SentenceTransformer.encode`."""
        from sentence_transformers import SentenceTransformer

        library = SentenceTransformer(str(minilm_folder()), device="cpu")
        np.testing.assert_array_equal(
            self.teacher().encode_texts(self.texts), library.encode(list(self.texts), normalize_embeddings=True)
        )

    def test_knows_what_is_alike(self) -> None:
        a, b, c = self.teacher().encode_texts(["A dog runs.", "A puppy is running.", "Stock prices fell."])
        assert a @ b > 0.7
        assert a @ c < 0.2

    def test_known_facts(self) -> None:
        identity = self.teacher().identity()
        assert identity["dim"] == 384
        assert identity["max_tokens"] == 256
        assert identity["pooling"] == ["mean"]
        assert identity["compute"] == {"precision": "float32", "batch": 32, "block": 4096}
        assert info_of(registry.load("teacher", "minilm")).modalities == ("text",)


@pytest.mark.parametrize("model", ["nobody/there-is-no-such-model", "/there/is/no/such/folder"])
def test_unreachable_model_says_what_works_offline(model: str) -> None:
    with pytest.raises(TeacherError, match=r"minilm\(\), mpnet\(\) and efficientnet_lite\(\) work offline"):
        registry.create("teacher", Spec.of("sbert", model=model), device="cpu")


def test_hub_that_does_not_answer_is_not_asked_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 9 of this machine refuses: said at once, and the libraries are left as they were."""
    from time import perf_counter

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("labelgen.teachers.weights.getproxies", dict)
    start = perf_counter()
    with pytest.raises(TeacherError, match=r"http://127\.0\.0\.1:9 cannot be reached, and the cache has no copy"):
        registry.create("teacher", Spec.of("sbert", model="nobody/none"), device="cpu")
    assert perf_counter() - start < 20
    assert constants.HF_HUB_OFFLINE is False


def test_model_with_code_of_its_own_is_refused(tiny_sbert: Path, tmp_path: Path) -> None:
    """A folder may name a module of its own; it is not imported."""
    import json
    import shutil

    folder = Path(shutil.copytree(tiny_sbert, tmp_path / "model"))
    (folder / "evil.py").write_text("raise SystemExit('executed')", encoding="utf-8")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[1]["type"] = "evil.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(TeacherError, match="sentence-transformers cannot load"):
        registry.create("teacher", Spec.of("sbert", model=str(folder)), device="cpu")


def test_wrong_arguments_are_refused_before_anything_is_loaded() -> None:
    def sbert(**arguments: Any) -> None:
        registry.create("teacher", Spec.of("sbert", model="nobody/none", **arguments), device="cpu")

    with pytest.raises(UnknownNameError, match="did you mean 'cusa'"):
        sbert(text="cuso")
    with pytest.raises(UnknownNameError, match="float32"):
        sbert(precision="float64")
    with pytest.raises(ConfigError, match="batch of a teacher is 0"):
        sbert(batch=0)
    with pytest.raises(ConfigError, match="'block' of teacher 'sbert' has the wrong type"):
        sbert(block=True)


def test_the_default_prompt_decides_rows_and_identity(tiny_sbert: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """The same network saved without a default prompt, and with one of two: a prompt stands before every text."""
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "find: ", "passage": "said: "}
    texts = ["two dogs run", "a red car", "x"]
    identities, rows = {}, {}
    for default in (None, "query", "passage"):
        folder = tmp_path / str(default)
        SentenceTransformer(str(tiny_sbert), device="cpu", prompts=prompts, default_prompt_name=default).save(
            str(folder)
        )
        teacher = registry.create("teacher", Spec.of("sbert", model=str(folder)), device="cpu")
        identities[default], rows[default] = dict(teacher.identity()), teacher.encode_texts(texts)
    for default, prompt in ((None, ""), ("query", "find: "), ("passage", "said: ")):
        expected = by_hand(tiny_bert, [prompt + text for text in texts], 64)
        np.testing.assert_allclose(rows[default], expected, atol=1e-5, err_msg=str(default))
    for one, other in ((None, "query"), ("query", "passage")):
        assert (rows[one] * rows[other]).sum(1).max() < 0.9999
        differing = {name for name in identities[one] if identities[one][name] != identities[other][name]}
        assert differing, (one, other)
        assert all("prompt" in name for name in differing)


def test_unknown_device(tiny_sbert: Path) -> None:
    with pytest.raises(TeacherError, match="cannot use the device 'quantum'"):
        registry.create("teacher", Spec.of("sbert", model=str(tiny_sbert)), device="quantum")


def test_cusa_step() -> None:
    step = text_step("cusa")
    assert step("A man, in a BLUE-striped shirt;  stands!\n") == "a man in a blue striped shirt stands"
    assert step('it\'s <person> and/or "me" (#3): ~ ok?') == "it s person and or me 3 ok"
    assert step("...") == ""
    assert step("a\tb\n") == "a\tb"  # single white-space characters stay, as in the released code
    assert step(" ".join(str(n) for n in range(70))).split()[-1] == "63"  # the first 64 words
    assert text_step("none")(" As It Is. ") == " As It Is. "
