"""Runs to a markdown table and a plot: figures of every configuration, and their lead over the baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from comparison.measures import Kept, Measure, figures, value
from labelgen.audit.card.measures import Figure

#: Measure -> configuration -> its figure.
Table = Mapping[str, Mapping[str, Figure]]


def table_of(measures: Sequence[Measure], runs: Mapping[str, Sequence[Kept]], replicates: int) -> Table:
    """All figures."""
    return {measure.name: figures(measure, runs, replicates) for measure in measures}


def deviations(measures: Sequence[Measure], runs: Mapping[str, Sequence[Kept]]) -> Mapping[str, Mapping[str, float]]:
    """Standard deviation over the seeds, n - 1."""
    return {
        measure.name: {
            name: float(np.std([value(measure, run) for run in kept], ddof=1)) if len(kept) > 1 else np.nan
            for name, kept in runs.items()
        }
        for measure in measures
    }


def figures_markdown(table: Table, spread: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    """Mean and deviation over the seeds, in per cent; a row a measure. The best of a row is bold."""
    lines = ["| measure | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for measure, row in table.items():
        best = max(row[name].value for name in names)
        cells = [_mean(row[name].value, spread[measure][name], row[name].value == best) for name in names]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def leads_markdown(table: Table, baseline: str, names: Sequence[str]) -> str:
    """Paired differences to a baseline in points of per cent, with 95 % intervals; bold where clear of zero."""
    others = [name for name in names if name != baseline]
    lines = ["| measure | " + " | ".join(others) + " |", "|---|" + "---|" * len(others)]
    for measure, row in table.items():
        cells = [_lead(row[name].lead_over(row[baseline])) for name in others]
        lines.append(f"| {measure} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(table: Table, baseline: str, names: Sequence[str], measures: Sequence[str], path: Path) -> None:
    """Leads over a baseline with their intervals, a panel a measure."""
    others = [name for name in names if name != baseline]
    width = 2.4 * len(measures) + 0.09 * max(map(len, others))
    canvas = Canvas(figsize=(width, 0.35 * len(others) + 1.2), layout="constrained")
    FigureCanvasAgg(canvas)
    panels = np.atleast_1d(canvas.subplots(1, len(measures)))
    for place, (axes, measure) in enumerate(zip(panels, measures, strict=True)):
        for row, name in enumerate(reversed(others)):
            lead = table[measure][name].lead_over(table[measure][baseline])
            clear = lead.low > 0 or lead.high < 0
            color = ("tab:green" if lead.low > 0 else "tab:red") if clear else "0.5"
            axes.plot([100 * lead.low, 100 * lead.high], [row, row], color=color, linewidth=2)
            axes.plot(100 * lead.value, row, "o", color=color)
        axes.axvline(0, color="0.2", linewidth=0.8)
        axes.set_yticks(range(len(others)), reversed(others) if place == 0 else [""] * len(others))
        axes.set_title(measure, fontsize=10)
    canvas.supxlabel(f"points over {baseline}, 95 % intervals", fontsize=10)
    canvas.savefig(path, dpi=150)


def _mean(value: float, spread: float, best: bool) -> str:
    text = f"{100 * value:.1f}"
    text = f"**{text}**" if best else text
    return text if np.isnan(spread) else f"{text} ± {100 * spread:.1f}"


def _lead(figure: Figure) -> str:
    value, low, high = (100 * number for number in (figure.value, figure.low, figure.high))
    text = f"{value:+.1f}"
    return f"{f'**{text}**' if low > 0 or high < 0 else text} [{low:+.1f}, {high:+.1f}]"
