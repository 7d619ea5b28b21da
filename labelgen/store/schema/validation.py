"""Documents against the JSON Schemas in `schemas/`."""

from __future__ import annotations

from typing import Any

_SHOWN = 20


def schema_problems(document: Any, schema: str) -> list[str]:
    """Faults of a document, as `place: what` sentences (at most 20); empty when it is valid.

    Args:
        document: plain JSON data.
        schema: a name in `schemas/` without its ending, for example `manifest.v1`.
    """
    from jsonschema import Draft202012Validator

    from labelgen import resources

    validator = Draft202012Validator(resources.schema(schema))
    found = []
    for error in validator.iter_errors(document):
        place = "/".join(str(part) for part in error.absolute_path) or "(top)"
        found.append(f"{place}: {error.message[:200]}")
    return sorted(found)[:_SHOWN]
