"""What decides the rows is in the identity: every argument and every file of a model; where the model lies is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen import pipeline, registry
from labelgen.errors import StoreMismatchError
from labelgen.fingerprint import canonical
from labelgen.specs import Spec
from labelgen.store.manifest import load_manifest
from labelgen.teachers import identity
from labelgen.teachers.adapters.sentences import SentenceTower
from labelgen.teachers.identity import on_common_facts, settings, tokenizer_digest


def create(name: str, **arguments: Any) -> Any:
    return registry.create("teacher", Spec.of(name, **arguments), device="cpu")


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place; a change that changes nothing is a mistake of the test."""
    before = json.loads(path.read_text(encoding="utf-8"))
    after = json.loads(json.dumps(before))
    change(after)
    assert after != before
    path.write_text(json.dumps(after), encoding="utf-8")


def put(**entries: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update(entries)


def under(*keys: str, **entries: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        for key in keys:
            data = data.setdefault(key, {})
        data.update(entries)

    return change


def swap(one: str, other: str) -> Callable[[dict[str, Any]], None]:
    """Two entries of a vocabulary change their numbers; the probe texts have neither."""

    def change(data: dict[str, Any]) -> None:
        words = data["model"]["vocab"]
        words[one], words[other] = words[other], words[one]

    return change


def checked(name: str, folder: Path, target: Path, file: str, change: Any, model: str = "{}") -> tuple[Any, Any]:
    """The teachers of a folder and of a copy in which one file is changed; their identities differ."""
    copy = Path(shutil.copytree(folder, target))
    edit(copy / file, change)
    plain, changed = (create(name, model=model.format(place)) for place in (folder, copy))
    assert canonical(plain.identity()) != canonical(changed.identity())
    return plain, changed


SBERT = {
    "activation": ("config.json", put(hidden_act="relu")),
    "epsilon": ("config.json", put(layer_norm_eps=1e-3)),
    "heads": ("config.json", put(num_attention_heads=4)),
    "pooling": ("1_Pooling/config.json", put(pooling_mode="max")),
    "prompt in the mean": ("1_Pooling/config.json", put(include_prompt=False)),
    "length": ("sentence_bert_config.json", put(max_seq_length=8)),
    "case": ("tokenizer_config.json", put(do_lower_case=False)),
    "accents": ("tokenizer_config.json", put(strip_accents=False)),
    "vocabulary": ("tokenizer.json", swap("##q", "##z")),
    "side of truncation": ("tokenizer_config.json", put(truncation_side="left")),
    "side of padding": ("tokenizer_config.json", put(padding_side="left")),
    "default prompt": ("config_sentence_transformers.json", put(prompts={"a": "a: "}, default_prompt_name="a")),
}


@pytest.mark.parametrize("what", SBERT)
def test_files_of_a_sentence_transformer(what: str, tiny_sbert: Path, tmp_path: Path) -> None:
    checked("sbert", tiny_sbert, tmp_path / "copy", *SBERT[what])


def test_rows_do_differ_where_only_settings_do(tiny_sbert: Path, tmp_path: Path) -> None:
    """The same weights and tokens: the identity of the activation was the same, and the rows are not."""
    plain, relu = checked("sbert", tiny_sbert, tmp_path / "copy", *SBERT["activation"])
    assert plain.identity()["weights"] == relu.identity()["weights"]
    assert plain.identity()["tokens"] == relu.identity()["tokens"]
    assert np.abs(plain.encode_texts(["a dog"]) - relu.encode_texts(["a dog"])).max() > 1e-4


@pytest.mark.parametrize(
    "arguments", [{"text": "cusa"}, {"prompt": "x: "}, {"max_tokens": 9}, {"batch": 3}, {"block": 5}]
)
def test_arguments_of_sbert(arguments: dict[str, Any], tiny_sbert: Path) -> None:
    plain, changed = create("sbert", model=str(tiny_sbert)), create("sbert", model=str(tiny_sbert), **arguments)
    assert canonical(plain.identity()) != canonical(changed.identity())


def test_dense_activation_of_a_sentence_transformer(tiny_bert: Path, tmp_path: Path) -> None:
    """Modules have settings that no tensor shows."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense

    model = SentenceTransformer(str(tiny_bert), device="cpu")
    model.append(Dense(32, 8, activation_function=torch.nn.Tanh()))
    model.save(str(tmp_path / "dense"))
    change = put(activation_function="torch.nn.modules.linear.Identity")
    checked("sbert", tmp_path / "dense", tmp_path / "copy", "2_Dense/config.json", change)


VISION = {
    "activation": ("config.json", put(hidden_act="relu")),
    "epsilon": ("config.json", put(layer_norm_eps=1e-3)),
    "heads": ("config.json", put(num_attention_heads=4)),
    "mean": ("preprocessor_config.json", put(image_mean=[0.1, 0.2, 0.3])),
    "std": ("preprocessor_config.json", put(image_std=[0.9, 0.8, 0.7])),
    "filter": ("preprocessor_config.json", put(resample=0)),
    "scale": ("preprocessor_config.json", put(rescale_factor=0.5)),
    "no normalisation": ("preprocessor_config.json", put(do_normalize=False)),
}


@pytest.mark.parametrize("what", VISION)
def test_files_of_a_vision_tower(what: str, tiny_vision: Mapping[str, Path], tmp_path: Path) -> None:
    checked("transformers", tiny_vision["vit"], tmp_path / "copy", *VISION[what])


@pytest.mark.parametrize("change", [put(size={"shortest_edge": 50}), put(size={"shortest_edge": 32}, resample=2)])
def test_sizes_of_a_vision_tower(change: Any, tiny_vision: Mapping[str, Path], tmp_path: Path) -> None:
    checked("transformers", tiny_vision["dinov2"], tmp_path / "copy", "preprocessor_config.json", change)


@pytest.fixture(scope="module")
def local_timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("timm") / "model"
    network = timm.create_model("test_vit")
    timm.models.save_for_hf(network, folder, model_args={"act_layer": "gelu"}, safe_serialization=True)
    return folder


TIMM = {
    "activation": under("model_args", act_layer="relu"),
    "pooling": under("model_args", global_pool="avg"),
    "mean": under("pretrained_cfg", mean=[0.1, 0.2, 0.3]),
    "std": under("pretrained_cfg", std=[0.1, 0.2, 0.3]),
    "filter": under("pretrained_cfg", interpolation="bilinear"),
    "crop": under("pretrained_cfg", crop_pct=0.5),
    "border": under("pretrained_cfg", crop_mode="border"),
}


@pytest.mark.parametrize("what", TIMM)
def test_file_of_a_timm_network(what: str, local_timm: Path, tmp_path: Path) -> None:
    checked("timm", local_timm, tmp_path / "copy", "config.json", TIMM[what], "local-dir:{}")


CLIP = {
    "activation": under("model_cfg", quick_gelu=True),
    "heads": under("model_cfg", "vision_cfg", head_width=8),
    "heads of texts": under("model_cfg", "text_cfg", heads=4),
    "mask of texts": under("model_cfg", "text_cfg", no_causal_mask=True),
    "pooling of texts": under("model_cfg", "text_cfg", pool_type="first"),
    "mean": under("preprocess_cfg", mean=[0.1, 0.2, 0.3]),
    "std": under("preprocess_cfg", std=[0.1, 0.2, 0.3]),
    "filter": under("preprocess_cfg", interpolation="bilinear"),
    "resize": under("preprocess_cfg", resize_mode="squash"),
}


@pytest.mark.parametrize("what", CLIP)
def test_file_of_an_open_clip_network(what: str, tiny_clip: Path, tmp_path: Path) -> None:
    file = "open_clip_config.json"
    plain, changed = checked("open_clip", tiny_clip, tmp_path / "copy", file, CLIP[what], "local-dir:{}")
    if what == "activation":
        for side in ("text", "image"):
            kinds = [teacher.identity()[side]["settings"]["activation"] for teacher in (plain, changed)]
            assert kinds == [["GELU"], ["QuickGELU"]]
            weights = [teacher.identity()[side]["weights"] for teacher in (plain, changed)]
            assert weights[0] == weights[1]


def test_weights_of_every_kind(
    tiny_sbert: Path, tiny_vision: Mapping[str, Path], local_timm: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    places = {
        "sbert": (tiny_sbert, "{}", "model.safetensors"),
        "transformers": (tiny_vision["vit"], "{}", "model.safetensors"),
        "timm": (local_timm, "local-dir:{}", next(local_timm.glob("*.safetensors")).name),
    }
    for name, (folder, model, file) in places.items():
        copy = Path(shutil.copytree(folder, tmp_path / name))
        state = load_file(copy / file)
        last = sorted(tensor for tensor in state if "norm" in tensor.lower())[0]
        metadata = {"format": "pt"}
        save_file({**state, last: state[last] + 0.01}, copy / file, metadata=metadata)
        identities = [create(name, model=model.format(place)).identity() for place in (folder, copy)]
        assert canonical(identities[0]) != canonical(identities[1]), name


def test_a_move_and_what_moves_no_row_change_nothing(
    tiny_sbert: Path, tiny_vision: Mapping[str, Path], tiny_clip: Path, local_timm: Path, tmp_path: Path
) -> None:
    places = {
        "sbert": (tiny_sbert, "{}", "config.json"),
        "transformers": (tiny_vision["dinov2"], "{}", "config.json"),
        "open_clip": (tiny_clip, "local-dir:{}", "open_clip_config.json"),
        "timm": (local_timm, "local-dir:{}", "config.json"),
    }
    for name, (folder, model, config) in places.items():
        before = canonical(create(name, model=model.format(folder)).identity())
        assert str(folder) not in json.dumps(before)
        copy = Path(shutil.copytree(folder, tmp_path / "elsewhere" / name))
        assert canonical(create(name, model=model.format(copy)).identity()) == before
        edit(copy / config, put(transformers_version="0.0", _name_or_path="/elsewhere", license="none"))
        (copy / "README.md").write_text("words")
        assert canonical(create(name, model=model.format(copy)).identity()) == before, name


def test_bundled_teachers_are_what_they_were() -> None:
    """Stores made with them before have these facts and no others."""
    text = {"compute", "dim", "max_tokens", "modules", "pooling", "prompt", "text", "tokens", "weights"}
    assert set(create("minilm").identity()) == text
    assert set(create("efficientnet_lite", size=0).identity()) == {"compute", "dim", "image", "max_aspect", "weights"}
    assert set(create("minilm").identity()) & identity.ADDED_FACTS == set()


def test_tokenizer_digest_sees_merges_and_not_the_last_call() -> None:
    from tokenizers import Tokenizer, models

    def made(merges: list[tuple[str, str]]) -> Tokenizer:
        return Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2, "ab": 3, "bc": 4}, merges=merges))

    one = made([("a", "b"), ("b", "c")])
    before = tokenizer_digest(one)
    one.enable_padding(length=7)
    one.enable_truncation(3)
    assert tokenizer_digest(one) == before
    assert tokenizer_digest(made([("b", "c"), ("a", "b")])) != before


def test_settings_are_plain_and_short() -> None:
    made = settings({"a": float("nan"), "b": [1, (2, 3)], "c": list(range(1000)), "id2label": {"0": "cat"}, "d": len})
    assert made == {"a": "nan", "b": [1, [2, 3]], "c": made["c"], "d": "builtin_function_or_method"}
    assert len(made["c"]) == 32
    json.dumps(made, allow_nan=False)


def test_common_facts() -> None:
    new = {"weights": "w", "settings": {"a": 1}, "tokenizer": "t", "image": {"weights": "i", "settings": 2}, "other": 3}
    old = {"weights": "w", "image": {"weights": "i"}}
    reduced, absent = on_common_facts(old, new)
    assert reduced == {
        "weights": "w",
        "image": {"weights": "i"},
        "other": 3,
    }  # what is no added fact stays, and differs
    assert absent == ["settings", "tokenizer", "image.settings"]
    assert on_common_facts(new, new) == (new, [])


WORDS = ["dog", "on a lawn", "red", "two men", "rain", "street by night", "kitchen", "jumps", "quick brown fox"]


def table(folder: Path, images: range) -> Path:
    folder.mkdir()
    rows = [
        {
            "image_id": f"i{n}",
            "caption_id": f"c{n}",
            "caption": " ".join(WORDS[n % k] for k in (3, 5, 7, 9)),
            "split": "all",
        }
        for n in images
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_store_that_recorded_less_goes_on_with_a_note(
    tiny_sbert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a release before wrote it: what it did record is compared, and other weights are refused."""
    model = Path(shutil.copytree(tiny_sbert, tmp_path / "model"))
    spec, out = Spec.of("sbert", model=str(model)), tmp_path / "store"
    root = table(tmp_path / "first", range(12))
    with monkeypatch.context() as patch:
        complete = SentenceTower.identity
        patch.setattr(
            SentenceTower,
            "identity",
            lambda self: {k: v for k, v in complete(self).items() if k not in ("settings", "tokenizer")},
        )
        overrides = [f"teachers.text={spec}", "search.k=3", f'dataset.root="{root}"']
        pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), out)
    assert "settings" not in load_manifest(out).teachers["text"].identity
    worker_cache_clear()
    second = table(tmp_path / "second", range(12, 18))
    report = pipeline.append(out, overrides=[f'dataset.root="{second}"'])
    assert report.appended == 6
    assert [note for note in report.notes if note.startswith("text: the store does not record settings, tokenizer")]
    from safetensors.torch import load_file, save_file

    state = load_file(model / "model.safetensors")
    name = next(tensor for tensor in state if "LayerNorm" in tensor)
    save_file({**state, name: state[name] + 0.01}, model / "model.safetensors", metadata={"format": "pt"})
    worker_cache_clear()
    third = table(tmp_path / "third", range(18, 24))
    with pytest.raises(StoreMismatchError, match=r"text\.identity\.weights"):
        pipeline.append(out, overrides=[f'dataset.root="{third}"'])


def test_a_store_that_recorded_the_settings_refuses_others(tiny_sbert: Path, tmp_path: Path) -> None:
    model, out = Path(shutil.copytree(tiny_sbert, tmp_path / "model")), tmp_path / "store"
    root, second = table(tmp_path / "first", range(12)), table(tmp_path / "second", range(12, 18))
    overrides = [f"teachers.text={Spec.of('sbert', model=str(model))}", "search.k=3", f'dataset.root="{root}"']
    worker_cache_clear()
    pipeline.build(pipeline.resolve(dataset="table", overrides=overrides), out)
    edit(model / "config.json", put(hidden_act="relu"))
    worker_cache_clear()
    with pytest.raises(StoreMismatchError, match=r"settings\.config\.json\.hidden_act: gelu -> relu"):
        pipeline.append(out, overrides=[f'dataset.root="{second}"'])
    edit(model / "config.json", put(hidden_act="gelu"))
    worker_cache_clear()
    report = pipeline.append(out, overrides=[f'dataset.root="{second}"'])
    assert (report.appended, [note for note in report.notes if "does not record" in note]) == (6, [])


def worker_cache_clear() -> None:
    """A process keeps the teachers that it has loaded."""
    from labelgen.stages.running import worker

    worker.release_teachers()
