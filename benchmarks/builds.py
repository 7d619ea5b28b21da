"""Whole builds of real data, each in its own process: counts, times, rates, peak anonymous memory of the process tree.

    python benchmarks/builds.py --data ../shared/data --out stores/bench [--only cusa,flickr8k,flickr30k] [--memory 2GB]
        [--torch] [--plan] [--rounds 3]

Prints a markdown table from the manifests; finished stores are kept, so a second run only prints. With --torch every
build is followed by the same one with teachers run by torch, and the ratio of whole builds is printed. With --plan
every build is planned first (`labelgen plan`, a process of its own), and a second table compares planned and measured
seconds, with medians over the rounds. `scale` are the 300,000 captions of `scale.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from scale import write_corpus

from labelgen.specs import Spec
from labelgen.stages.running.memory import tree_bytes
from labelgen.store.manifest import load_manifest

TEXT, IMAGE = ["--teacher", "text=minilm()"], ["--teacher", "image=efficientnet_lite(size=2)"]
BUILDS: dict[str, list[str]] = {
    "cusa": ["--dataset", "cusa", "--root", "{data}/coco_cusa_1k", *TEXT, *IMAGE],
    "flickr8k": ["--dataset", "flickr8k", "--root", "{data}/flickr8k", *TEXT, *IMAGE],
    "flickr30k": [
        *("--dataset", "table", "--root", "{data}/flickr30k_captions"),
        *("--set", "dataset.options.file=captions.parquet", *TEXT),
    ],
    "remote_sensing": [
        *("--dataset", "table", "--root", "{data}/remote_sensing_captions"),
        *("--set", "dataset.options.file=captions.parquet", *TEXT),
    ],
    "scale": [
        *("--dataset", "table", "--root", "{out}/scale-data", "--set", "dataset.options.file=captions.parquet"),
        *("--teacher", "text=minilm(precision='bfloat16')"),
    ],
}
ROWS = 300_000
_BY_TORCH = "-torch"
#: How wrong a plan may be: the whole, and a stage of more than `LONG` seconds.
WHOLE, STAGE, LONG = 0.15, 0.25, 10.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="cusa,flickr8k,flickr30k", help=", ".join(BUILDS))
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    names = [
        name + runtime for name in options.only.split(",") for runtime in (("", _BY_TORCH) if options.torch else ("",))
    ]
    for number in range(options.rounds):
        for name in names:
            store = options.out / _named(name, number)
            if not (store / "manifest.json").exists():
                if name.startswith("scale"):
                    (options.out / "scale-data").mkdir(parents=True, exist_ok=True)
                    write_corpus(options.data, options.out / "scale-data" / "captions.parquet", ROWS)
                arguments = [part.format(data=options.data, out=options.out) for part in _arguments(name)]
                arguments += ["--memory", options.memory]
                if options.plan:
                    _plan(arguments, _plan_of(options.out, _named(name, number)))
                _build([*arguments, "--out", str(store)], store)
    print(_table(options.out, names))
    if options.torch:
        print(f"\n{_ratios(options.out, names, options.rounds)}")
    if options.plan:
        print(f"\n{_planned(options.out, names, options.rounds)}")


def _arguments(name: str) -> list[str]:
    """Arguments of a build; of one by torch the specs of the teachers say so."""
    arguments = BUILDS[name.removesuffix(_BY_TORCH)]
    if not name.endswith(_BY_TORCH):
        return arguments
    made = []
    for part in arguments:
        alias, _, spec = part.partition("=")
        is_teacher = alias in ("text", "image")
        parsed = Spec.parse(spec) if is_teacher else Spec.of("")
        made.append(f"{alias}={Spec.of(parsed.name, **parsed.arguments, runtime='torch')}" if is_teacher else part)
    return made


def _ratios(out: Path, names: list[str], rounds: int) -> str:
    """Seconds of whole builds by torch, divided by those of the default; medians over the rounds."""
    lines = ["| data set | torch s | default s | torch / default |", "|---|---|---|---|"]
    for name in names:
        if not name.endswith(_BY_TORCH):
            pairs = [
                [_measured(out, _named(one, n))["seconds"] for one in (name + _BY_TORCH, name)] for n in range(rounds)
            ]
            torch, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
            lines.append(f"| {name} | {torch:.0f} | {ours:.0f} | {statistics.median(a / b for a, b in pairs):.2f} |")
    return "\n".join(lines)


def _measured(out: Path, name: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _named(name: str, number: int) -> str:
    return f"{name}.{number}" if number else name


def _plan(arguments: list[str], file: Path) -> None:
    """Write the planned seconds of every stage of a build."""
    file.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "labelgen", "plan", *arguments, "--json"]
    print(" ".join(command[1:]), file=sys.stderr)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    planned = dict[str, float]()
    for stage in json.loads(done.stdout)["stages"]:
        planned[stage["stage"]] = planned.get(stage["stage"], 0.0) + (stage["seconds"] or 0.0)
    file.write_text(json.dumps(planned), encoding="utf-8")


def _plan_of(out: Path, name: str) -> Path:
    return out / "plans" / f"{name}.json"


def _build(arguments: list[str], store: Path) -> None:
    """Run one build and sample its process tree from outside."""
    command = [sys.executable, "-m", "labelgen", "build", *arguments, "--progress", "none"]
    print(" ".join(command[1:]), file=sys.stderr)
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=sys.stderr)
    while process.poll() is None:
        peak = max(peak, tree_bytes(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the build of {store} failed with exit code {process.returncode}")
    seconds = time.perf_counter() - started
    (store.parent / f"{store.name}.json").write_text(
        json.dumps({"seconds": seconds, "peak_bytes": peak}), encoding="utf-8"
    )


def _table(out: Path, names: list[str]) -> str:
    lines = [
        "| data set | images | captions (distinct) | quarantined | embed s | rates | search s | merge s | all s "
        "| store MB | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        manifest = load_manifest(out / name)
        measured = _measured(out, name)
        stages = manifest.stages
        embedded = ", ".join(f"{rate:,.0f} {what}/s" for what, rate in _rates(out / name).items())
        lines.append(
            f"| {name} | {manifest.corpus.n_images:,} | {manifest.corpus.n_captions:,} ({manifest.corpus.n_texts:,}) "
            f"| {manifest.quarantine.total} | {stages['embed']['seconds']:.0f} | {embedded} "
            f"| {stages['search']['seconds']:.0f} | {stages['merge']['seconds']:.1f} | {measured['seconds']:.0f} "
            f"| {manifest.total_bytes / 1e6:.0f} | {measured['peak_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


def _planned(out: Path, names: list[str], rounds: int) -> str:
    """Planned and measured seconds of every stage of a second or more, medians over the rounds."""
    lines = ["| data set | stage | planned s | took s | planned / took | |", "|---|---|---|---|---|---|"]
    for name in names:
        pairs = [_planned_and_taken(out, _named(name, number)) for number in range(rounds)]
        found = {stage: _medians([one[stage] for one in pairs]) for stage in pairs[0]}
        found["all"] = _medians([tuple(map(sum, zip(*one.values(), strict=True))) for one in pairs])
        for stage, (planned, took, ratio) in found.items():
            if max(planned, took) < 1:
                continue
            limit = WHOLE if stage == "all" else STAGE if took > LONG else None
            verdict = "" if limit is None else "right" if abs(ratio - 1) <= limit else "WRONG"
            lines.append(f"| {name} | {stage} | {planned:.1f} | {took:.1f} | {ratio:.2f} | {verdict} |")
    return "\n".join(lines)


def _planned_and_taken(out: Path, name: str) -> dict[str, tuple[float, float]]:
    planned = json.loads(_plan_of(out, name).read_text(encoding="utf-8"))
    taken = {stage: facts["seconds"] for stage, facts in load_manifest(out / name).stages.items()}
    return {stage: (planned.get(stage, 0.0), taken.get(stage, 0.0)) for stage in dict.fromkeys([*taken, *planned])}


def _medians(pairs: list[tuple[float, ...]]) -> tuple[float, float, float]:
    """Planned, measured, and planned / measured."""
    planned, took = (statistics.median(side) for side in zip(*pairs, strict=True))
    return planned, took, statistics.median(a / max(b, 1e-9) for a, b in pairs)


def _rates(store: Path) -> dict[str, float]:
    """Rows a second of each modality, from the receipts of the embed stage."""
    totals: dict[str, list[float]] = {}
    for path in sorted((store / "receipts" / "embed").rglob("*.json")):
        receipt: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = "texts" if path.parent.name.endswith(".text") else "images"
        total = totals.setdefault(kind, [0.0, 0.0])
        total[0] += receipt["rows"]
        total[1] += receipt["seconds"]
    return {kind: rows / seconds for kind, (rows, seconds) in totals.items()}


if __name__ == "__main__":
    main()
