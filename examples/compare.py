"""Do soft labels help? Two binary baselines and the four methods, by the same small student with the same budget.

    labelgen build --dataset flickr8k --root DATA --out stores/flickr8k \\
        --teacher "text=minilm()" --teacher "image=efficientnet_lite(size=2)" \\
        --refine "bridge(image='image', text='text')"
    python examples/compare.py sweep stores/flickr8k --against DATA/ExpertAnnotations.txt \\
        --against DATA/CrowdFlowerAnnotations.txt
    python examples/compare.py run stores/flickr8k --against ...
    python examples/compare.py report stores/flickr8k --against ...

`sweep` tries settings with one seed and shows what they reach on the val split and on one half of the judged test
images. `run` trains the setting of each method that the rule in `comparison/configurations.py` chooses, with five
seeds. `report` writes a table and a plot of the test split and of the other half of the judged images. Runs are kept in
--out, and what is there is not done again. `--configuration` takes the place of the chosen settings.
With `--wikipedia DATA` all three compare retrieval by category, on features; the store is made first.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from comparison import report, results, wikipedia
from comparison.configurations import BUDGET, SWEEP, WIKIPEDIA, choose, names_of
from comparison.flickr8k import Flickr8k
from comparison.measures import Kept, Measure, value
from comparison.training import Budget
from comparison.wikipedia import Wikipedia


def main() -> None:
    options = arguments()
    data: Flickr8k | Wikipedia
    if options.wikipedia:
        data, usual = Wikipedia.open(options.store, options.wikipedia), wikipedia.EPOCHS
    else:
        data, usual = Flickr8k.open(options.store, options.against, options.splits.split(",")), BUDGET.epochs
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads, user_api="blas")  # labels are products of numpy: its threads are others
    budget = replace(BUDGET, epochs=options.epochs or usual, batch=options.batch)
    if options.command == "sweep":
        listed = [text for name in options.only or SWEEP for text in SWEEP[name]]
        tried = options.configuration or (list(WIKIPEDIA.values()) if options.wikipedia else listed)
        sweep(data, tried, budget, options.seed or range(options.seeds or 1), options.out)
        return
    named = names_of(options.configuration)
    named = named or (WIKIPEDIA if options.wikipedia else choose(reached(options.out)))
    seeds = options.seed or range(options.seeds or 5)
    runs = {name: trained(data, text, budget, seeds, options.out) for name, text in named.items()}
    if options.command == "report":
        write_report(data.reporting(), runs, named, options)


def sweep(data: Flickr8k | Wikipedia, texts: list[str], budget: Budget, seeds: Sequence[int], out: Path) -> None:
    """Print and keep what every setting reaches on val and on the half of the judged images that choices may see."""
    measures = data.selecting()
    print("| setting | " + " | ".join(measure.name for measure in measures) + " |")
    print("|---|" + "---|" * len(measures))
    for text in texts:
        kept = trained(data, text, budget, seeds, out)
        means = {measure.name: sum(value(measure, run) for run in kept) / len(kept) for measure in measures}
        print(f"| `{text}` | " + " | ".join(f"{100 * mean:.1f}" for mean in means.values()) + " |", flush=True)
        with (out / "sweep.jsonl").open("a", encoding="utf-8") as file:
            line = {"setting": text, **asdict(budget), "seeds": list(seeds), "reached": means}
            file.write(json.dumps(line) + "\n")


def reached(out: Path) -> dict[str, dict[str, float]]:
    """What the sweep in `out` has kept; the last line of a setting counts."""
    path = out / "sweep.jsonl"
    if not path.exists():
        raise SystemExit(f"{path} is not there: run `compare.py sweep` first, or name settings with --configuration")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["setting"]: line["reached"] for line in lines}


def trained(data: Flickr8k | Wikipedia, text: str, budget: Budget, seeds: Sequence[int], out: Path) -> list[Kept]:
    """The runs of a method, from disk or trained now."""
    found = []
    for seed in seeds:
        path = results.run_path(out, text, budget, seed)
        if not path.exists():
            started = time.perf_counter()
            kept = data.run(text, budget, seed)
            seconds = time.perf_counter() - started
            results.save(path, kept, {"method": text, "seed": seed, "seconds": round(seconds, 1)})
            print(f"{text}, seed {seed}: {seconds:.0f} s", file=sys.stderr, flush=True)
        found.append(results.load(path)[0])
    return found


def write_report(
    measures: list[Measure], runs: dict[str, list[Kept]], named: dict[str, str], options: argparse.Namespace
) -> None:
    """Tables on standard output and in report.md, leads over every baseline as plots."""
    names = list(runs)
    table = report.table_of(measures, runs, options.replicates)
    text = "\n".join(f"- {name}: `{setting}`" for name, setting in named.items()) + "\n\n"
    text += report.figures_markdown(table, report.deviations(measures, runs), names)
    baselines = options.baseline or names[:2]
    for baseline in baselines:
        text += f"\n\nPoints over {baseline}:\n\n" + report.leads_markdown(table, baseline, names)
        shown = [name for name in table if name.startswith("mean ") or name.endswith("Spearman")]
        report.plot(table, baseline, names, shown, options.out / f"over-{baseline.partition('(')[0]}.png")
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
    parser.add_argument("--seed", type=int, action="append", help="this seed alone, to split a long run; repeatable")
    parser.add_argument("--wikipedia", type=Path, help="folder of the Wikipedia features; the store is made of it")
    parser.add_argument("--epochs", type=int, help="those of the budget")
    parser.add_argument("--batch", type=int, default=BUDGET.batch)
    parser.add_argument("--splits", default="train,val,test", help="to train on, to choose by, to report")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--threads", type=int, default=1, help="more only help where cores are idle")
    return parser.parse_args()


if __name__ == "__main__":
    main()
