"""Do soft labels help? Two binary baselines and the four methods, by the same small student with the same budget.

    labelgen build --dataset flickr8k --root DATA --out stores/flickr8k \\
        --teacher "text=minilm()" --teacher "image=efficientnet_lite(size=2)"
    python examples/compare.py sweep stores/flickr8k --against DATA/ExpertAnnotations.txt \\
        --against DATA/CrowdFlowerAnnotations.txt
    python examples/compare.py run stores/flickr8k --against ...
    python examples/compare.py report stores/flickr8k --against ...

`sweep` tries settings with one seed and shows what they reach on the val split and on one half of the judged test
images. `run` trains what `comparison/configurations.py` lists, with five seeds. `report` writes a table and a plot of
the test split and of the other half of the judged images. Runs lie in --out, and what lies there is not done again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from comparison import report, results
from comparison.configurations import BUDGET, CHOSEN, SWEEP
from comparison.flickr8k import Flickr8k
from comparison.measures import Kept, Measure, value
from comparison.training import Budget


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    data = Flickr8k.open(options.store, options.against, options.splits.split(","))
    budget = replace(BUDGET, epochs=options.epochs, batch=options.batch)
    if options.command == "sweep":
        tried = [text for name in options.only or SWEEP for text in SWEEP[name]]
        sweep(data, options.configuration or tried, budget, options.seeds or 1, options.out)
        return
    named = {text: text for text in options.configuration} or CHOSEN
    runs = {name: trained(data, text, budget, options.seeds or 5, options.out) for name, text in named.items()}
    if options.command == "report":
        write_report(data.reporting(), runs, options)


def sweep(data: Flickr8k, texts: list[str], budget: Budget, seeds: int, out: Path) -> None:
    """Print and keep what every setting reaches on val and on the half of the judged images that choices may see."""
    measures = data.selecting()
    path = out / "sweep.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    print("| configuration | " + " | ".join(measure.name for measure in measures) + " |")
    for text in texts:
        kept = trained(data, text, budget, seeds, out)
        means = {measure.name: sum(value(measure, run) for run in kept) / seeds for measure in measures}
        rows[f"{text}, {budget.epochs} epochs, {seeds} seeds"] = {name: round(mean, 4) for name, mean in means.items()}
        print(f"| {text} | " + " | ".join(f"{100 * mean:.1f}" for mean in means.values()) + " |", flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def trained(data: Flickr8k, text: str, budget: Budget, seeds: int, out: Path) -> list[Kept]:
    """The runs of a method, from disk or trained now."""
    found = []
    for seed in range(seeds):
        path = results.run_path(out, text, budget, seed)
        if not path.exists():
            started = time.perf_counter()
            kept = data.run(text, budget, seed)
            seconds = time.perf_counter() - started
            results.save(path, kept, {"method": text, "seed": seed, "seconds": round(seconds, 1)})
            print(f"{text}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
        found.append(results.load(path)[0])
    return found


def write_report(measures: list[Measure], runs: dict[str, list[Kept]], options: argparse.Namespace) -> None:
    """Tables on standard output and in report.md, leads over every baseline as plots."""
    names = list(runs)
    table = report.table_of(measures, runs, options.replicates)
    text = report.figures_markdown(table, report.deviations(measures, runs), names)
    baselines = options.baseline or names[:2]
    for baseline in baselines:
        text += f"\n\nPoints over {baseline}:\n\n" + report.leads_markdown(table, baseline, names)
        shown = [name for name in table if name == "mean recall" or name.endswith("Spearman")]
        report.plot(table, baseline, names, shown, options.out / f"over-{baseline}.png")
    (options.out / "report.md").write_text(text + "\n", encoding="utf-8")
    print(text)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["sweep", "run", "report"])
    parser.add_argument("store", type=Path, help="a sealed store with a text and an image teacher")
    parser.add_argument("--against", type=Path, action="append", default=[], help="a file of judgements; repeatable")
    parser.add_argument("--out", type=Path, default=Path("results/compare"), help="runs, tables, plots")
    parser.add_argument("--only", action="append", choices=SWEEP, help="sweep these methods only; repeatable")
    parser.add_argument("--configuration", action="append", default=[], help="instead of the listed ones; repeatable")
    parser.add_argument("--baseline", action="append", help="what leads are over (the first two)")
    parser.add_argument("--seeds", type=int, help="1 for sweep, 5 for run and report")
    parser.add_argument("--epochs", type=int, default=BUDGET.epochs)
    parser.add_argument("--batch", type=int, default=BUDGET.batch)
    parser.add_argument("--splits", default="train,val,test", help="to train on, to choose by, to report")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--threads", type=int, default=1, help="more only help where cores are idle")
    return parser.parse_args()


if __name__ == "__main__":
    main()
