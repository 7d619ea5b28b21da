"""A corpus of hundreds of thousands of captions: what `labelgen plan` says of it, against a whole build.

    python benchmarks/scale.py --data ../shared/data --scratch /tmp/scale [--rows 300000] [--approximate] [--distinct]

The captions are all sets under --data and, up to --rows, perturbed copies of images drawn from them (words dropped,
words swapped), which are images of their own: near ties in great number, as in crawled corpora. They are written as a
`table` data set into --scratch. Then, each in a process of its own: `labelgen plan`, and `labelgen build` with the
three text relations, k = 64. With --approximate the built store is changed to approximate lists, from the same
embeddings. With --distinct as many captions that all differ are built, too, and the searches are compared.

The teacher is MiniLM in bfloat16 (--precision float32 for the real thing): the search sees the same shapes and nearly
the same rows, the embed stage takes less than half the time. Run it on an idle machine: the plan is calibrated in
seconds, and other people's work in the minutes between makes it wrong.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from labelgen.stages.running.memory import tree_bytes

STAGES = ("describe", "ingest", "embed", "assemble", "search", "merge", "measure")
APPROXIMATE = ("index", "sample", "tune", "search", "recall")
#: How wrong a plan may be.
TOLERANCE = 0.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folders with captions.parquet")
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--approximate", nargs="?", const="faiss()", default="", help="and then approximate lists")
    parser.add_argument("--distinct", action="store_true", help="and then as many captions that all differ")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    rows = write_corpus(options.data, options.scratch / "captions.parquet", options.rows, options.seed)
    teacher = f"text=minilm(precision='{options.precision}')"
    recipe = ["--dataset", "table", "--root", str(options.scratch), "--teacher", teacher]
    recipe += ["--memory", options.memory, "--set", "dataset.options.file=captions.parquet"]
    started = time.perf_counter()
    plan, _ = _labelgen("plan", *recipe)
    planning = time.perf_counter() - started
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        store = Path(folder) / "store"
        report, peak = _labelgen("build", *recipe, "--out", str(store))
        print(f"{rows:,} captions, MiniLM in {options.precision}, k = 64, --memory {options.memory}\n")
        print(_compared(plan, report, planning, peak))
        for note in plan["notes"]:
            print(f"\nplan: {note}")
        if options.approximate:
            exact = [word for relation in ("t2t", "i2t", "t2i") for word in ("--drop", relation)]
            changed, peak = _labelgen(
                "build", *recipe, "--out", str(store), "--update", *exact, "--approximate", options.approximate
            )
            print(f"\n{_against_approximate(report, changed, peak)}")
    if options.distinct:
        write_corpus(options.data, options.scratch / "captions.parquet", options.rows, options.seed, distinct=True)
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            other, _ = _labelgen("build", *recipe, "--out", str(Path(folder) / "store"))
        ours, theirs = (found["stages"]["search"]["seconds"] for found in (report, other))
        print(f"\nThe search took {ours:.1f} s, that of as many captions that all differ {theirs:.1f} s: ", end="")
        print(f"{ours / theirs:.2f} times as long (target 1.3).")


def _labelgen(command: str, *arguments: str) -> tuple[dict[str, Any], int]:
    """Its JSON answer, and the highest anonymous memory of its process tree."""
    line = [sys.executable, "-m", "labelgen", command, *arguments, "--json", "--progress", "none"]
    print(" ".join(line[1:]), file=sys.stderr)
    peak = 0
    with tempfile.TemporaryFile("w+") as answer:
        process = subprocess.Popen(line, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=answer)
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.1)
        if process.returncode:
            raise SystemExit(f"labelgen {command} failed with exit code {process.returncode}")
        answer.seek(0)
        return json.load(answer), peak


# ------------------------------------------------------------------------------------------------------------- corpus


def write_corpus(data: Path, path: Path, rows: int, seed: int = 0, *, distinct: bool = False) -> int:
    """All images of all sets, in order, then perturbed copies; cut after the image that completes `rows`.

    Args:
        distinct: captions whose text stands before are left out.
    """
    images = list(_images(data))
    draw = random.Random(seed)  # noqa: S311 - nothing secret
    drawn = (_copy(number, *draw.choice(images), draw) for number in range(3 * rows))
    table: list[tuple[str, str]] = []
    seen: set[str] = set()
    for image, captions in itertools.chain(images, drawn):
        if len(table) >= rows:
            break
        kept = [text for text in dict.fromkeys(captions) if text not in seen] if distinct else captions
        seen.update(kept)
        table += [(image, caption) for caption in kept]
    frame = pl.DataFrame(table, schema=["image_id", "caption"], orient="row")
    frame.write_parquet(path)
    return len(frame)


def _images(data: Path) -> Iterator[tuple[str, list[str]]]:
    for file in sorted(data.glob("*/captions*.parquet")):
        frame = pl.read_parquet(file, columns=["image_id", "caption"]).drop_nulls()
        grouped = frame.group_by("image_id", maintain_order=True).agg("caption")
        for image, captions in grouped.iter_rows():
            yield f"{file.parent.name}/{image}", captions


def _copy(number: int, image: str, captions: list[str], draw: random.Random) -> tuple[str, list[str]]:
    return f"copy-{number}/{image}", [_perturbed(caption.split(), draw) for caption in captions]


def _perturbed(words: list[str], draw: random.Random) -> str:
    """A fifth of the words dropped, two neighbours swapped, a word repeated."""
    kept = [word for word in words if draw.random() > 0.2] or words
    if len(kept) > 1:
        place = draw.randrange(len(kept) - 1)
        kept[place], kept[place + 1] = kept[place + 1], kept[place]
        kept.insert(draw.randrange(len(kept)), draw.choice(kept))
    return " ".join(kept)


# ------------------------------------------------------------------------------------------------------------- output


def _compared(plan: dict[str, Any], report: dict[str, Any], planning: float, peak: int) -> str:
    planned = {name: sum(s["seconds"] or 0 for s in plan["stages"] if s["stage"] == name) for name in STAGES}
    built = {name: stage["seconds"] for name, stage in report["stages"].items()}
    lines = ["| stage | planned s | built s | planned / built |", "|---|---|---|---|"]
    lines += [_line(name, planned.get(name), built.get(name)) for name in dict.fromkeys((*STAGES, *built))]
    lines.append(_line("all", plan["seconds"], report["seconds"]))
    wrong = abs(plan["seconds"] / report["seconds"] - 1)
    verdict = "right" if wrong <= TOLERANCE else "WRONG"
    lines += ["", f"The plan took {planning:.0f} s and was {verdict} within {TOLERANCE:.0%}: off by {wrong:.0%}."]
    lines += [f"Peak anonymous memory of the build: {peak / 1e6:,.0f} MB."]
    return "\n".join(lines)


def _line(name: str, planned: float | None, built: float | None) -> str:
    ratio = f"{planned / built:.2f}" if planned and built else ""
    cells = ["" if seconds is None else f"{seconds:.1f}" for seconds in (planned, built)]
    return f"| {name} | {' | '.join(cells)} | {ratio} |"


def _against_approximate(exact: dict[str, Any], changed: dict[str, Any], peak: int) -> str:
    spent = {name: changed["stages"].get(name, {}).get("seconds", 0.0) for name in APPROXIMATE}
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items())
    lines = ["| search | s | recall |", "|---|---|---|"]
    lines.append(f"| exact | {exact['stages']['search']['seconds']:.1f} | 1 |")
    recalls = "; ".join(f"{path.split('/')[1].split('.')[0]}: {text}" for path, text in changed["approximate"].items())
    lines.append(f"| approximate ({parts}) | {sum(spent.values()):.1f} | {recalls} |")
    return "\n".join([*lines, "", f"Peak anonymous memory of the approximate search: {peak / 1e6:,.0f} MB."])


if __name__ == "__main__":
    main()
