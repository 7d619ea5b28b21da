"""Identity of a network beside its weights: the settings in its files, its tokenizer.

Settings are read from the files of the model, not from the objects that a library creates, because another release of
the library can have other defaults, and the same folder would get another identity.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labelgen.errors import TeacherError
from labelgen.fingerprint import fingerprint
from labelgen.teachers.failures import first_line

#: Facts that identities have not always had: a store that was sealed without them is compared without them.
ADDED_FACTS = frozenset({"settings", "tokenizer"})
#: Parts of the identity of a cross-modal teacher, which have separate facts.
_SIDES = frozenset({"text", "image"})
#: Entries of configuration files that move no row: where a model comes from, names of classes, versions, licences.
_NOT_ROWS = frozenset(
    {
        *("_name_or_path", "_commit_hash", "transformers_version", "__version__", "architectures", "license", "url"),
        *("id2label", "label2id", "labels", "label_names", "label_descriptions", "num_labels", "hf_hub_id"),
        *("origin_url", "paper_ids", "paper_name", "description", "tags", "file", "source"),
    }
)
_MAX_FILE = 16 << 20
_MAX_PLAIN = 1000


def on_common_facts(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`new` without the added facts that `old` does not have, and the names of these facts.

    `old` is the identity in a manifest, perhaps of a release that recorded less; everything that it has is compared.
    """
    reduced, absent = {}, []
    for key, value in new.items():
        if key in ADDED_FACTS and key not in old:
            absent.append(key)
        elif key in _SIDES and isinstance(value, Mapping) and isinstance(old.get(key), Mapping):
            reduced[key], inner = on_common_facts(old[key], value)
            absent += [f"{key}.{name}" for name in inner]
        else:
            reduced[key] = value
    return reduced, absent


def settings(value: Any) -> Any:
    """Plain JSON data of a configuration without what moves no row; a long value becomes its fingerprint."""
    if isinstance(value, Mapping):
        kept = {str(key): item for key, item in sorted(value.items(), key=str) if str(key) not in _NOT_ROWS}
        return {key: _short(settings(item)) for key, item in kept.items()}
    if isinstance(value, list | tuple):
        return [settings(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int) else type(value).__qualname__


def file_settings(path: Path) -> Any:
    """The settings in a JSON file of a model.

    Raises:
        TeacherError: the file is too large, or not JSON.
    """
    try:
        if path.stat().st_size > _MAX_FILE:
            raise ValueError(f"{path.stat().st_size:,} bytes")
        return settings(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise TeacherError(
            f"cannot read the settings of a model in {path.name!r}",
            found=first_line(error),
            expected=f"JSON of at most {_MAX_FILE >> 20} MiB",
        ) from error


def tokenizer_digest(tokenizer: Any) -> str:
    """Fingerprint of a tokenizer: vocabulary, merges, normalisation, special tokens, sides of padding and truncation.

    Length and padding of a single call do not count; what is false or empty does not either, since newer releases of
    the library write more of it.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor, or the wrapper of another library
    backend = getattr(inner, "backend_tokenizer", None) or getattr(inner, "_tokenizer", None) or inner
    sides = [str(getattr(inner, name, "")) for name in ("padding_side", "truncation_side")]
    if hasattr(backend, "to_str"):
        written = json.loads(backend.to_str())
        made_of: Any = {key: written[key] for key in written.keys() - {"version", "truncation", "padding", "decoder"}}
    else:
        made_of = {"kind": type(inner).__name__, **_own_settings(inner)}
    return fingerprint([sides, _filled(made_of)])


def _own_settings(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary and plain attributes of a tokenizer in Python, without paths and its cache."""
    kept = {
        name: value
        for name, value in vars(tokenizer).items()
        if name != "cache" and not (isinstance(value, str) and ("/" in value or "\\" in value))
        if isinstance(value, str | int | float | list | set | dict)
    }
    vocabulary = getattr(tokenizer, "get_vocab", None)
    return kept | ({"vocabulary": vocabulary()} if callable(vocabulary) else {})


def _filled(value: Any) -> Any:
    """JSON data without what is false or empty; pairs of merges as text, as older releases wrote them."""
    if isinstance(value, Mapping):
        return {str(key): _filled(item) for key, item in value.items() if item or (item == 0 and item is not False)}
    if isinstance(value, set | frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, list | tuple):
        pair = len(value) == 2 and all(isinstance(item, str) for item in value)
        return " ".join(value) if pair else [_filled(item) for item in value]
    return value if isinstance(value, str | int | float) else type(value).__qualname__


def _short(value: Any) -> Any:
    """A value of up to 1,000 characters of JSON as it is, a longer one as its fingerprint."""
    return value if len(json.dumps(value)) <= _MAX_PLAIN else fingerprint(value)
