"""What is wrong with the labels of a store, how well they agree with people, and what to do about it.

Functions of a sealed store. The public names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Public name -> where it lives.
_PLACES: dict[str, str] = {
    "Patch": "labelgen.patches.patch:Patch",
    "agreement_card": "labelgen.audit.card:agreement_card",
    "agreement": "labelgen.audit.overlap:agreement",
    "coverage": "labelgen.audit.batches:coverage",
    "duplicates": "labelgen.audit.repeats:duplicates",
    "false_negatives": "labelgen.audit.positives:false_negatives",
    "hubs": "labelgen.audit.hubness:hubs",
    "issues": "labelgen.audit.datalab:issues",
    "isolated": "labelgen.audit.hubness:isolated",
    "knn_graph": "labelgen.audit.datalab:knn_graph",
    "leakage": "labelgen.audit.splits:leakage",
    "noisy_pairs": "labelgen.audit.noise:noisy_pairs",
    "read_judgements": "labelgen.audit.judgements:read_judgements",
    "score_pairs": "labelgen.audit.positives:score_pairs",
    "show": "labelgen.audit.gallery:show",
    "write_fiftyone": "labelgen.audit.fiftyone:write_fiftyone",
    "write_report": "labelgen.audit.report:write_report",
}

__all__ = sorted(_PLACES)  # noqa: PLE0605 - the table is the list


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'labelgen.audit' has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    value = globals()[name] = getattr(import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
