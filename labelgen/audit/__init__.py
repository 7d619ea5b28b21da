"""Findings about the labels of a store, their agreement with human judgements, and the review page.

Functions of a sealed store. The public names are loaded when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.audit.card.card import agreement_card
    from labelgen.audit.card.rows import AgreementCard
    from labelgen.audit.checks.agreement import agreement
    from labelgen.audit.checks.coverage import coverage
    from labelgen.audit.checks.duplicates import duplicates
    from labelgen.audit.checks.false_negatives import false_negatives, score_pairs
    from labelgen.audit.checks.hubness import hubs, isolated
    from labelgen.audit.checks.leakage import leakage
    from labelgen.audit.checks.noisy_pairs import noisy_pairs
    from labelgen.audit.judgements.judgements import Judgements, read_judgements
    from labelgen.audit.report.datalab import issues, knn_graph
    from labelgen.audit.report.fiftyone_export import write_fiftyone
    from labelgen.audit.report.findings import proposals
    from labelgen.audit.report.gallery import show
    from labelgen.audit.report.report import write_report
    from labelgen.audit.report.sections import Section, audit_sections
    from labelgen.patches.patch import Patch

#: Public name -> where it lives.
_PLACES: dict[str, str] = {
    "AgreementCard": "labelgen.audit.card.rows:AgreementCard",
    "Judgements": "labelgen.audit.judgements.judgements:Judgements",
    "Patch": "labelgen.patches.patch:Patch",
    "Section": "labelgen.audit.report.sections:Section",
    "agreement_card": "labelgen.audit.card.card:agreement_card",
    "audit_sections": "labelgen.audit.report.sections:audit_sections",
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
    "proposals": "labelgen.audit.report.findings:proposals",
    "read_judgements": "labelgen.audit.judgements.judgements:read_judgements",
    "score_pairs": "labelgen.audit.checks.false_negatives:score_pairs",
    "show": "labelgen.audit.report.gallery:show",
    "write_fiftyone": "labelgen.audit.report.fiftyone_export:write_fiftyone",
    "write_report": "labelgen.audit.report.report:write_report",
}

__all__ = [
    "AgreementCard",
    "Judgements",
    "Patch",
    "Section",
    "agreement",
    "agreement_card",
    "audit_sections",
    "coverage",
    "duplicates",
    "false_negatives",
    "hubs",
    "isolated",
    "issues",
    "knn_graph",
    "leakage",
    "noisy_pairs",
    "proposals",
    "read_judgements",
    "score_pairs",
    "show",
    "write_fiftyone",
    "write_report",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
