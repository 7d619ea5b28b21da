"""Plots of the page as inline SVG: similarities of annotated and of random pairs, from the statistics."""

from __future__ import annotations

import json
from html import escape
from typing import Any

import numpy as np

from labelgen.store import layout
from labelgen.store.reader import Store
from labelgen.types import Float64

_WIDTH, _HEIGHT, _FOOT = 420, 150, 18


def plots(store: Store) -> str:
    """Return one figure a relation and teacher, from its statistics; empty where a store has none."""
    figures = []
    folder = layout.numbered(layout.STATS, store.manifest.generation)
    listed = [name for name in store.manifest.files if name.startswith(f"{folder}/") and name.endswith(".json")]
    for path in map(store.file, sorted(listed)):
        words = path.stem.split(".")
        over = [word for word in words[2:] if word.startswith("kinds-")]
        if over != ([layout.kinds_mark(store.chosen)] if store.chosen and words[0] != "i2i" else []):
            continue
        figure = _figure(json.loads(path.read_text(encoding="utf-8")), path.stem)
        if figure:
            figures.append(figure)
    return "".join(figures)


def _figure(document: dict[str, Any], name: str) -> str:
    edges = np.asarray(document.get("bins", []), np.float64)
    curves = {word: _counts(document, word, len(edges) - 1) for word in ("own", "random")}
    drawn = {word: counts / counts.sum() for word, counts in curves.items() if counts.sum() > 0}
    if not drawn:
        return ""
    used = np.flatnonzero(sum(drawn.values()) > 1e-4)
    first, last = int(used[0]), int(used[-1]) + 1
    top = max(float(counts.max()) for counts in drawn.values())
    body = "".join(
        _curve(drawn[word][first:last], top, css)
        for word, css in (("random", "other"), ("own", "annotated"))
        if word in drawn
    )
    middle = document.get("quantiles", {}).get("0.5")
    colours = {"own": "annotated pairs (blue)", "random": "random pairs (orange)"}
    note = f"{name}: {', '.join(colours[word] for word in drawn)}" + (
        f", median of random pairs {middle:.2f}" if middle is not None else ""
    )
    line = f'<line class="axis" x1="0" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}"/>'
    labels = (
        f'<text x="0" y="{_HEIGHT + 13}">{edges[first]:.2f}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 13}" text-anchor="end">{edges[last]:.2f}</text>'
    )
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT + _FOOT}"'
    caption = f'<figcaption class="dim">{escape(note)}</figcaption>'
    return f'<figure><svg {size} role="img">{body}{line}{labels}</svg>{caption}</figure>'


def _counts(document: dict[str, Any], word: str, bins: int) -> Float64:
    """Return the histogram over all splits, [bins]."""
    total = np.zeros(max(0, bins))
    for split in document.get("splits", {}).values():
        total += np.asarray(split.get(word, {}).get("counts", np.zeros(max(0, bins))), np.float64)
    return total


def _curve(shares: Float64, top: float, css: str) -> str:
    step = _WIDTH / len(shares)
    points = [(0.0, float(_HEIGHT))]
    for place, share in enumerate(shares.tolist()):
        height = _HEIGHT * (1 - share / top)
        points += [(place * step, height), ((place + 1) * step, height)]
    points.append((float(_WIDTH), float(_HEIGHT)))
    return f'<polygon class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'
