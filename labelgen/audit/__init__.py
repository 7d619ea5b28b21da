"""Findings about the labels of a store, their agreement with human judgements, and the review page.

Functions of a sealed store. The public names are loaded when they are first used.
"""

from __future__ import annotations

from labelgen.lazy import lazy_names

#: Public name -> where it lives.
_PLACES: dict[str, str] = {
    "Patch": "labelgen.patches.patch:Patch",
    "agreement_card": "labelgen.audit.card.card:agreement_card",
    "agreement": "labelgen.audit.checks.agreement:agreement",
    "coverage": "labelgen.audit.checks.coverage:coverage",
    "duplicates": "labelgen.audit.checks.duplicates:duplicates",
    "false_negatives": "labelgen.audit.checks.false_negatives:false_negatives",
    "hubs": "labelgen.audit.checks.hubness:hubs",
    "issues": "labelgen.audit.report.datalab:issues",
    "isolated": "labelgen.audit.checks.hubness:isolated",
    "knn_graph": "labelgen.audit.report.datalab:knn_graph",
    "leakage": "labelgen.audit.checks.leakage:leakage",
    "noisy_pairs": "labelgen.audit.checks.noisy_pairs:noisy_pairs",
    "read_judgements": "labelgen.audit.judgements.judgements:read_judgements",
    "score_pairs": "labelgen.audit.checks.false_negatives:score_pairs",
    "show": "labelgen.audit.report.gallery:show",
    "write_fiftyone": "labelgen.audit.report.fiftyone_export:write_fiftyone",
    "write_report": "labelgen.audit.report.report:write_report",
}

__all__ = sorted(_PLACES)  # noqa: PLE0605 - the table is the list

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
