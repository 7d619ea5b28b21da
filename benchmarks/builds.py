"""Whole builds of real data, each in its own process: counts, times, rates, peak anonymous memory of the process tree.

    python benchmarks/builds.py --data ../shared/data --out stores/bench [--only cusa,flickr8k,flickr30k] [--memory 2GB]

Prints a markdown table from the manifests; finished stores are kept, so a second run only prints.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

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
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default=",".join(BUILDS))
    parser.add_argument("--memory", default="2GB")
    options = parser.parse_args()
    for name in options.only.split(","):
        store = options.out / name
        if not (store / "manifest.json").exists():
            arguments = [part.format(data=options.data) for part in BUILDS[name]]
            _build([*arguments, "--out", str(store), "--memory", options.memory], store)
    print(_table(options.out, options.only.split(",")))


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
        measured = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        stages = manifest.stages
        embedded = ", ".join(f"{rate:,.0f} {what}/s" for what, rate in _rates(out / name).items())
        lines.append(
            f"| {name} | {manifest.corpus.n_images:,} | {manifest.corpus.n_captions:,} ({manifest.corpus.n_texts:,}) "
            f"| {manifest.quarantine.total} | {stages['embed']['seconds']:.0f} | {embedded} "
            f"| {stages['search']['seconds']:.0f} | {stages['merge']['seconds']:.1f} | {measured['seconds']:.0f} "
            f"| {manifest.total_bytes / 1e6:.0f} | {measured['peak_bytes'] / 1e6:.0f} |"
        )
    return "\n".join(lines)


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
