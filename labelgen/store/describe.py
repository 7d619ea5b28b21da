"""Descriptions of a store for a terminal and a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from labelgen.errors import visible
from labelgen.store.manifest import Manifest, NeighborEntry


def as_text(path: Path, manifest: Manifest) -> str:
    """One paragraph."""
    facts = "; ".join(f"{name} {visible(value)}" for name, value in _facts(manifest))
    return f"labelgen store {str(path)!r}: {facts}."


def as_html(path: Path, manifest: Manifest) -> str:
    """A table; every text from the store is escaped."""
    cell = "style='text-align:left'"
    rows = "".join(
        f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(visible(value))}</td></tr>"
        for name, value in _facts(manifest)
    )
    return f"<div><b>labelgen store</b> <code>{escape(visible(str(path)))}</code><table>{rows}</table></div>"


def list_text(entry: NeighborEntry) -> str:
    """What is special about a list: the captions that it is over, its recall; empty for exact lists over all."""
    over = f"over captions of kinds {', '.join(entry.kinds)}" if entry.kinds else ""
    return ", ".join(text for text in (over, recall_text(entry)) if text)


def recall_text(entry: NeighborEntry) -> str:
    """`approximate, recall@64 0.957 (0.943 to 0.968, 1,000 images)`, empty for an exact list."""
    if not entry.approximate:
        return ""
    try:
        recall = entry.facts["recall"]
        interval = f"{recall['low']:.3f} to {recall['high']:.3f}, {recall['images']:,} images"
        below = ", below its target" if recall["mean"] < recall.get("target", 0) else ""
        return f"approximate, recall@{int(recall['k'])} {recall['mean']:.3f} ({interval}{below})"
    except (KeyError, TypeError, ValueError, AttributeError):  # a build without queries, or facts of someone else
        return "approximate, recall not measured"


def training_text(training: Mapping[str, Any]) -> str:
    """The report of a trained teacher, in lines: what it was judged on, and how it was made."""
    try:
        if "auc" not in training:
            return "\n".join(_made_of_rows(training))
        fit = training["fit"]
        how = f"stopped early, best of {training['steps']}" if training["stopped"] == "early" else "all steps taken"
        lines = [
            f"AUC {frozen:.4f} -> {made:.4f} {part} ({pairs:,} pairs)" for part, pairs, frozen, made in judged(training)
        ]
        step = f"{training['best_step']} steps ({how})"
        return "\n".join([*lines, f"{step} on {fit['captions']:,} captions of {fit['images']:,} images"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return "its report cannot be read"


def _made_of_rows(training: Mapping[str, Any]) -> list[str]:
    """Lines on a bridge (recall), on centred rows, or on rows side by side."""
    lines = [
        f"{part.replace('_', ' ')}: R@1 / 5 / 10 image to text {i2t}, text to image {t2i} of {images:,} images "
        f"(chance {chance})"
        for part, images, i2t, t2i, chance in recalled(training)
    ]
    if "fit" in training:
        fit = training["fit"]
        where = f"{fit['captions']:,} captions of {fit['images']:,} images ({', '.join(fit['splits'])})"
        lines.append(f"{fit['folds']} folds, penalty {fit['penalty']:g}, on {where}")
    if "mean_of" in training:
        of = training["mean_of"]
        counts = " and ".join(f"{of[side]:,} rows of {side}s" for side in ("image", "text") if side in of)
        lines.append(f"less the mean of {counts} ({', '.join(of['splits'])})")
    if "fusion" in training:
        fusion = training["fusion"]
        lines.append(
            f"cosines are within {fusion['largest']:.1g} of the fusion of the parts ({fusion['pairs']:,} pairs of rows)"
            if fusion["pairs"]
            else "its distance from the fusion of the parts is not measured: they have no rows of the same items"
        )
    return lines


def recalled(training: Mapping[str, Any]) -> list[tuple[str, int, str, str, str]]:
    """Part, images, recall@1, 5 and 10 in percent of both directions, chance; nothing where there is none.

    The part that was held out comes first, images that the map saw last.
    """
    order = {"held_out": 0, "seen": 2}
    try:
        parts = sorted(training["retrieval"].items(), key=lambda item: (order.get(item[0], 1), item[0]))
        return [
            (
                part,
                int(found["images"]),
                _percents(found["i2t"]),
                _percents(found["t2i"]),
                f"{_percents(found['chance']['i2t'])} and {_percents(found['chance']['t2i'])}",
            )
            for part, found in parts
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def _percents(shares: Mapping[str, float]) -> str:
    return " / ".join(f"{100 * float(shares[cut]):.1f}" for cut in ("1", "5", "10"))


def judged(training: Mapping[str, Any]) -> list[tuple[str, int, float, float]]:
    """Part, pairs, AUC of the source's rows and of the trained ones; the part that is only reported comes first.

    Nothing where the report is not one that a training makes.
    """
    try:
        parts = sorted(training["auc"].items(), key=lambda item: (item[0] != "held_out", item[0] != "stopping"))
        return [
            (
                part.replace("_", " "),
                counts["positive"] + counts["negative"],
                float(counts["frozen"]),
                float(counts["trained"]),
            )
            for part, counts in parts
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []


def human_bytes(count: int) -> str:
    """`1.5 GB`: decimal units, as disks are sold."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{count} bytes"
        size /= 1000
    return f"{size:.3g} TB"


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    corpus = manifest.corpus
    splits = ", ".join(f"{name} {len(rows):,}" for name, rows in corpus.splits.items())
    teachers = ", ".join(
        f"{alias} = {entry.spec} ({'+'.join(entry.modalities)}, {entry.dim}-d)"
        for alias, entry in manifest.teachers.items()
    )
    lists = ", ".join(
        " ".join([entry.path.partition("/")[2], f"({text})" if (text := list_text(entry)) else ""]).strip()
        for entry in manifest.neighbors
    )
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in corpus.kinds.items())
    return [
        ("data set", str(corpus.about.get("name") or manifest.recipe.get("dataset", {}).get("name", "unknown"))),
        ("holds", f"{corpus.n_images:,} images ({splits}) and {corpus.n_captions:,} captions"),
        *([("kinds of captions", kinds)] if kinds else []),
        *([("groups of images", f"{corpus.groups:,}")] if corpus.groups else []),
        ("teachers", teachers or "none"),
        ("neighbours", lists or "none"),
        ("quarantined", f"{manifest.quarantine.total:,}"),
        ("size", human_bytes(manifest.total_bytes)),
        ("sealed", f"{manifest.created} by labelgen {manifest.labelgen}"),
        ("content", manifest.content_digest),
    ]
