"""Bundled teachers on OpenVINO from the user's cache: the converted network, and what else is known of the model.

The first use loads the model with its own library, which takes seconds, converts the network and keeps both; others
need neither the library nor torch. A model is recognised by the bytes of its files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from labelgen.teachers.adapters.lite import LITE_SCALING, LitePixels, check_size, lite_network
from labelgen.teachers.adapters.sentence_passes import LibraryTokeniser, Passes, Tokens, converted, table_sizes
from labelgen.teachers.adapters.sentences import SentenceTower, load_model, model_facts, sentence_tower
from labelgen.teachers.adapters.vision import ImageTower
from labelgen.teachers.compute import Compute, model_cache
from labelgen.teachers.compute.openvino_network import OpenVinoNetwork
from labelgen.teachers.packages import lite_file
from labelgen.teachers.text import text_step
from labelgen.torch_threads import threads


def sentences(folder: Path, *, text: str, compute: Compute) -> SentenceTower:
    """A SentenceTransformer in a folder, without prompts and with a fast tokenizer, as a text teacher.

    Raises:
        RuntimeRefusedError, MissingExtraError: see `OpenVinoNetwork`.
        TeacherError, MissingExtraError: the model cannot be loaded.
        UnknownNameError: an unknown text step.
    """
    text_step(text)
    if compute.runtime == "torch":
        return sentence_tower(load_model(str(folder)), text=text, compute=compute)

    def load() -> tuple[dict[str, Any], Any]:
        model = compute.place(load_model(str(folder)))
        forward, names = converted(model, LibraryTokeniser(model, None), compute)
        facts = model_facts(model, None)
        return {
            "facts": facts,
            "tokenizer": model.tokenizer.backend_tokenizer.to_str(),  # truncates and pads as in the calls before
            "names": names,
            "limits": table_sizes(model),
        }, forward

    files = [path for path in folder.rglob("*") if path.is_file()]
    record, network = _kept("sentences", files, compute, load)
    tokens = Tokens(record["tokenizer"], [*record["names"]])
    positions, vocabulary = record["limits"]
    passes = Passes(tokens, record["names"], network, compute, limits=(positions, vocabulary))
    return SentenceTower(passes, record["facts"], text=text, compute=compute)


def lite(size: int, *, compute: Compute) -> ImageTower:
    """EfficientNet-Lite without its classifier as an image teacher.

    Raises:
        ConfigError: no such size.
        MissingExtraError: the package with the weights, or timm, is not installed.
        RuntimeRefusedError, MissingExtraError: see `OpenVinoNetwork`.
    """

    def tower(forward: Any, facts: Mapping[str, Any]) -> ImageTower:
        return ImageTower(forward, LitePixels(size), LITE_SCALING, compute=compute, facts=facts)

    def load() -> tuple[dict[str, Any], Any]:
        network, facts = lite_network(size)
        network.reset_classifier(0)
        return {"facts": facts}, tower(compute.place(network), facts).network

    check_size(size)
    if compute.runtime == "openvino":
        record, network = _kept(f"efficientnet_lite{size}", [lite_file(size)], compute, load)
        return tower(network, record["facts"])
    made, forward = load()
    return tower(forward, made["facts"])


def _kept(
    kind: str, files: Sequence[Path], compute: Compute, load: Callable[[], tuple[dict[str, Any], Any]]
) -> tuple[Mapping[str, Any], OpenVinoNetwork]:
    """The record and the compiled network of files from the cache; else what `load` makes, which is kept."""
    key = model_cache.record_key(kind, files)
    record = model_cache.read_record(key)
    if record is not None:
        found = OpenVinoNetwork.kept(str(record.get("network")), precision=compute.precision, streams=threads())
        if found is not None:
            return record, found
    record, network = load()
    if network.key:
        model_cache.keep_record(key, {**record, "network": network.key})
    return record, network
