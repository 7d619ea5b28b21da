"""Prompts, lengths and code of sentence-transformers models, against the library's own `encode`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_teachers_repeatable import static_embeddings

from labelgen import registry
from labelgen.errors import ConfigError, MissingExtraError, TeacherError, UnknownNameError
from labelgen.specs import Spec
from labelgen.teachers.adapters import sentences

TEXTS = ["a dog on a lawn", "two men", "a red car in the rain"]


def create(folder: Path, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of("sbert", model=str(folder), **arguments), device="cpu")


def edited(source: Path, target: Path, file: str, **changes: Any) -> Path:
    """A copy of a model folder with other entries in one of its JSON files."""
    folder = Path(shutil.copytree(source, target))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


@pytest.fixture
def prompted(tiny_sbert: Path, tmp_path: Path) -> Path:
    prompts = {"query": "query: ", "passage": "passage of text: "}
    return edited(tiny_sbert, tmp_path / "prompted", "config_sentence_transformers.json", prompts=prompts)


def library(folder: Path, **options: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(TEXTS, normalize_embeddings=True, **options)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (None, {}),
        ("query", {"prompt_name": "query"}),
        ("passage", {"prompt_name": "passage"}),
        ("query: ", {"prompt": "query: "}),
        ("say it: ", {"prompt": "say it: "}),
        ("", {"prompt": ""}),
    ],
)
def test_prompt_by_name_or_text(prompt: str | None, options: dict[str, str], prompted: Path) -> None:
    teacher = create(prompted) if prompt is None else create(prompted, prompt=prompt)
    np.testing.assert_array_equal(teacher.encode_texts(TEXTS), library(prompted, **options))


def test_prompts_change_rows_and_identity(prompted: Path) -> None:
    identities = [create(prompted, prompt=prompt).identity() for prompt in ("query", "passage", "")]
    assert [identity["prompt"] for identity in identities] == ["query: ", "passage of text: ", ""]
    assert create(prompted, prompt="query: ").identity() == identities[0]


def test_default_prompt_is_taken_and_belongs_to_the_identity(prompted: Path, tmp_path: Path) -> None:
    file = "config_sentence_transformers.json"
    defaults = edited(prompted, tmp_path / "defaults", file, default_prompt_name="passage")
    teacher = create(defaults)
    np.testing.assert_array_equal(teacher.encode_texts(TEXTS), library(prompted, prompt="passage of text: "))
    assert teacher.identity()["prompt"] == "passage of text: "
    assert teacher.notes == ()
    other = edited(defaults, tmp_path / "other", file, prompts={"query": "query: ", "passage": "other: "})
    assert create(other).identity()["prompt"] == "other: "


def test_prompts_that_nobody_chose_are_told(prompted: Path, tiny_sbert: Path) -> None:
    (note,) = create(prompted).notes
    assert "lists prompts and none was chosen: 'query: query: ', 'passage: passage of text: '" in note
    assert "prompt='query' takes one" in note
    assert create(prompted, prompt="").notes == create(prompted, prompt="query").notes == create(tiny_sbert).notes == ()


@pytest.mark.parametrize("prompt", ["quary", "passages", "x"])
def test_misspelt_prompts_are_no_texts(prompt: str, prompted: Path) -> None:
    with pytest.raises(UnknownNameError, match="passage, query"):
        create(prompted, prompt=prompt)


def test_notes_are_told_by_a_build_and_by_its_plan(prompted: Path, tmp_path: Path) -> None:
    from labelgen import pipeline

    lines = [f"i{number},a dog of {number} spots" for number in range(9)]
    (tmp_path / "captions.csv").write_text("\n".join(["image_id,caption", *lines]))
    overrides = [f"dataset.root={json.dumps(str(tmp_path))}", "search.k=4", 'search.engine="numpy"']
    config = pipeline.resolve(
        dataset="table", overrides=[*overrides, f"teachers.text={Spec.of('sbert', model=str(prompted))}"]
    )
    report = pipeline.build(config, tmp_path / "store")
    assert [note for note in report.notes if "lists prompts and none was chosen" in note]


def test_static_embeddings_take_texts_of_any_length(tmp_path: Path) -> None:
    """Their limit is infinite, which is no number of JSON: a build ended in an internal error."""
    folder = static_embeddings(tmp_path / "static")
    teacher = create(folder)
    assert teacher.identity()["max_tokens"] is None
    np.testing.assert_array_equal(teacher.encode_texts(TEXTS), library(folder))
    long = "the tall windows " * 2_000
    rows = teacher.encode_texts([long, "the tall windows"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)  # the mean of the same tokens
    with pytest.raises(TeacherError, match=r"cannot load(.|\n)*max_seq_length|no limit of tokens"):
        create(folder, max_tokens=8)


def test_text_longer_than_the_positions_is_a_named_error(tiny_sbert: Path, tmp_path: Path) -> None:
    """64 positions, and a folder that says 512."""
    folder = edited(tiny_sbert, tmp_path / "long", "tokenizer_config.json", model_max_length=512)
    file = next(path.name for path in folder.glob("sentence_*_config.json"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_seq_length": 512}))
    teacher = create(folder)
    assert [note for note in teacher.notes if "max_tokens=64" in note]
    assert teacher.encode_texts(TEXTS).shape == (3, 32)
    with pytest.raises(TeacherError, match=r"fails on its input(.|\n)*600 characters(.|\n)*max_tokens="):
        teacher.encode_texts(["a dog", "x " * 300])
    short = create(folder, max_tokens=64)
    assert short.notes == ()
    assert short.identity()["max_tokens"] == 64
    np.testing.assert_allclose(
        short.encode_texts(["x " * 300]), create(tiny_sbert).encode_texts(["x " * 300]), atol=1e-6
    )


@pytest.mark.parametrize("value", [0, -1, True, 2.5, "64"])
def test_limit_that_is_no_number(value: Any, tiny_sbert: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        create(tiny_sbert, max_tokens=value)


def test_weights_that_would_be_random_are_refused(tiny_sbert: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_sbert, tmp_path / "gap"))
    state = load_file(folder / "model.safetensors")
    gone = "encoder.layer.1.output.dense.weight"
    save_file({name: tensor for name, tensor in state.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(TeacherError, match=rf"lacks weights, which would be random(.|\n)*{gone}"):
        create(folder)


def test_pooler_may_be_missing_and_unused_tensors_are_told(tiny_sbert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_sbert, tmp_path / "other"))
    state = {name: value for name, value in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file({**state, "head.weight": torch.ones(3)}, folder / "model.safetensors")
    teacher = create(folder)
    (note,) = teacher.notes
    assert "1 tensor is not used of the checkpoint" in note
    assert "'head.weight'" in note
    np.testing.assert_array_equal(teacher.encode_texts(TEXTS), create(tiny_sbert).encode_texts(TEXTS))


def test_code_of_a_local_folder_is_not_run(tiny_sbert: Path, tmp_path: Path) -> None:
    """A module of its own, which an older library imported from any local folder."""
    folder, mark = Path(shutil.copytree(tiny_sbert, tmp_path / "model")), tmp_path / "executed"
    (folder / "custom.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from sentence_transformers.sentence_transformer.modules import Pooling as Custom\n",
        encoding="utf-8",
    )
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[1]["type"] = "custom.Custom"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    with pytest.raises(TeacherError, match=r"cannot load(.|\n)*work offline"):
        create(folder)
    assert not mark.exists()


def test_code_of_a_transformers_folder_is_not_run(tiny_bert: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    folder = edited(
        tiny_bert,
        tmp_path / "model",
        "config.json",
        model_type="strange",
        auto_map={"AutoConfig": "custom.Config", "AutoModel": "custom.Model"},
    )
    (folder / "custom.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n", encoding="utf-8")
    with pytest.raises(TeacherError, match="cannot load"):
        create(folder)
    assert not mark.exists()


def test_older_library_is_refused(tiny_sbert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentence_transformers

    monkeypatch.setattr(sentence_transformers, "__version__", "5.1.2")
    with pytest.raises(MissingExtraError, match=r"5\.1\.2 is too old: it runs code(.|\n)*sentence-transformers>=6"):
        create(tiny_sbert)


def test_advice_names_the_limit() -> None:
    """Of a model without one, too."""
    tower = sentences.SentenceTower.__new__(sentences.SentenceTower)
    tower._facts = {"max_tokens": None}
    assert "texts of any length" in tower._advice(["abc"])


@pytest.mark.parametrize("arguments", [{"model": 5}, {"model": ["a"]}, {"model": "x" * 5000}, {"model": "a\0b"}])
def test_models_that_are_no_names(arguments: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TeacherError)) as caught:
        registry.create("teacher", Spec.of("sbert", **arguments), device="cpu")
    assert len(str(caught.value)) < 2000
