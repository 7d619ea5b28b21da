"""What is compared: the budget that all share, what was tried, and the rule by which one setting of each is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comparison.training import Budget

BUDGET = Budget()

#: The baseline InfoNCE at a temperature that is good for it: soft labels beside a badly tuned one prove nothing.
_WARM = "info_nce(start=0.1, low=0.1, high=0.1)"
_CUSA = "cusa(alpha={}, beta={}, mode='add', reduction='mean', relevance_temperature={})"
_LIST = "listwise(weight={}, transform=['relu()'])"
_FUSED = 'listwise(weight={}, by="{}")'
_BRIDGE, _DEFAULT = "mean(of=['i2t.bridge'])", "default(text='text', bridge='bridge')"

#: Name in the table -> what `compare.py sweep` tries for it. Baselines are tuned as the methods are.
SWEEP: dict[str, list[str]] = {
    "triplet": ["triplet()", "triplet(margin=0.1)"],
    "InfoNCE": [
        "info_nce()",
        "info_nce(start=0.05, low=0.05, high=0.05)",
        _WARM,
        "info_nce(start=0.14, low=0.14, high=0.14)",
        "info_nce(start=0.2, low=0.2, high=0.2)",
    ],
    "BCLS": [
        "bcls()",
        "bcls(weight=1.0, gap=0.2)",
        "bcls(weight=5.0, gap=0.2)",
        "bcls(weight=5.0, gap=0.1)",
        "bcls(weight=10.0, gap=0.1)",
        "bcls(weight=1.0, window=8)",
        "bcls(weight=5.0, window=8)",
        "bcls(weight=0.1, window=8)",
        "bcls(weight=1.0, window=8, min_gap=0.1)",
    ],
    "CUSA": [
        "cusa()",
        _CUSA.format(1.0, 0.0, 0.1),
        _CUSA.format(1.0, 1.0, 0.1),
        _CUSA.format(1.0, 0.0, 0.05),
        _CUSA.format(3.0, 0.0, 0.1),
        _CUSA.format(10.0, 0.0, 0.1),
        _CUSA.format(10.0, 0.0, 0.2),
    ],
    "listwise": ["listwise(weight=0.5)", _LIST.format(0.5), _LIST.format(0.8), _LIST.format(0.9)],
    "listwise, bridge": [_FUSED.format(weight, _BRIDGE) for weight in (0.5, 0.8, 0.9)],
    "listwise, fused": [_FUSED.format(weight, _DEFAULT) for weight in (0.5, 0.8, 0.9)],
    "fine-grained targets": [
        "fine_grained(mode='target')",
        f"fine_grained(base='{_WARM}', mode='target')",
        f"fine_grained(base='{_WARM}', mode='target', weight=4.0)",
    ],
    "fine-grained weights": ["fine_grained()", f"fine_grained(base='{_WARM}')"],
    "the same without labels": ["fine_grained(gamma=0.0)", f"fine_grained(base='{_WARM}', gamma=0.0)"],
}

#: Name in the table -> what is compared on Wikipedia. Nothing is tuned there but the gap, which follows from the tf-idf
#: similarities: few are above .2. Every image has one text, so the text itself cannot be left out of its set.
WIKIPEDIA: dict[str, str] = {
    "triplet": "triplet()",
    "InfoNCE": _WARM,
    "BCLS": "bcls(weight=5.0, gap=0.05)",
    "CUSA": _CUSA.format(3.0, 0.0, 0.1),
    "listwise": _LIST.format(0.8),
    "fine-grained targets": "fine_grained(aggregation='max', mode='target')",
    "fine-grained weights": "fine_grained(aggregation='max')",
    "the same without labels": "fine_grained(aggregation='max', gamma=0.0)",
}

#: How much of its best recall on val a method may give away for agreement with people.
KEPT_RECALL = 0.95


def names_of(texts: Sequence[str]) -> dict[str, str]:
    """Name -> setting; a setting has its name in `SWEEP`, and is its own name where that is not there or not alone."""
    listed = {text: name for name, tried in SWEEP.items() for text in tried}
    names = [listed.get(text, text) for text in texts]
    return {name if names.count(name) == 1 else text: text for name, text in zip(names, texts, strict=True)}


def choose(reached: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """Name -> the setting with the highest mean of the experts' and the crowd's Spearman.

    Only settings count whose mean recall on val is at least `KEPT_RECALL` of the best that the same name reached.

    Args:
        reached: text of a setting -> what it reached on val and on the first half of the judged images; names of which
            nothing was tried are left out.
    """
    tried = {name: [text for text in texts if text in reached] for name, texts in SWEEP.items()}
    return {name: _best({text: reached[text] for text in texts}) for name, texts in tried.items() if texts}


def _best(reached: Mapping[str, Mapping[str, float]]) -> str:
    least = KEPT_RECALL * max(row["mean recall"] for row in reached.values())
    good = [text for text, row in reached.items() if row["mean recall"] >= least]
    return max(good, key=lambda text: reached[text]["experts Spearman"] + reached[text]["crowd Spearman"])
