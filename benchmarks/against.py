"""Is this checkout slower than an older commit? Both run in turn, and the ratio of each pair is reported.

    python benchmarks/against.py f7d3377 --case cusa --data ../shared/data --pairs 7
    python benchmarks/against.py f7d3377 --case overhead,resume --data ../shared/data

Cases:

- cusa: `labelgen build` of coco_cusa_1k as a whole process, with the bundled teachers;
- overhead: the embed times of `benchmarks/overhead.py --images N --rounds 1`, each tree with its own script;
- resume: `labelgen build` of as many rows as flickr8k has, made features, killed in its last stages and run again;
- search: the stages `search` and `merge` of a build of 50,000 captions, made features, `t2t`, k = 64;
- reading: opening, blocks, lists and labels of batches of a store of flickr8k's size, medians within one process.

The order within a pair alternates. Content digests are compared before a ratio is printed. The interval is a bootstrap
of the median over pairs (95 %).
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from blake3 import blake3
from trees import HERE, bundled, environment, labelgen, old_tree, run

Times = Mapping[str, float]
Case = Callable[[Path, Path, Path], Times]

#: Rows of flickr8k, and the widths of the two bundled teachers.
IMAGES, CAPTIONS, TEXT_DIM, IMAGE_DIM = 8_092, 40_460, 384, 1_280
#: Images and captions of the case `search`.
SEARCHED = (10_000, 50_000)

#: Milliseconds of what training asks of a store, 256 images and a caption of each; without torch in the process.
READING = """
import json, statistics, sys, time
started = time.perf_counter()
import labelgen
times = {"import labelgen": time.perf_counter() - started}
started = time.perf_counter()
store = labelgen.open(sys.argv[1])
times["labelgen.open"] = time.perf_counter() - started
import numpy as np
draw = np.random.default_rng(0)
batches = []
for _ in range(40):
    rows = np.sort(draw.choice(len(store.offsets) - 1, 256, replace=False))
    batches.append((store.image_ids(rows), store.caption_ids(store.offsets[rows])))
made = {
    "block t2t": lambda images, captions: store.block("t2t", caption_ids=captions),
    "block i2t": lambda images, captions: store.block("i2t", images, captions),
    "block i2i": lambda images, captions: store.block("i2i", image_ids=images),
    "256 lists of 16": lambda images, captions: store.neighbors("t2t", captions),
    "labels bcls": lambda images, captions: labelgen.soft_labels(store, images, captions, scheme="bcls()"),
    "labels cusa": lambda images, captions: labelgen.soft_labels(store, images, captions, scheme="cusa()"),
}
for name, call in made.items():
    took = []
    for batch in batches:
        started = time.perf_counter()
        call(*batch)
        took.append(time.perf_counter() - started)
    times[name] = statistics.median(took)
print(json.dumps({f"{name}, ms": 1000 * value for name, value in times.items()}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older version")
    parser.add_argument("--case", default="cusa,overhead,resume")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--warm", type=int, default=1, help="pairs that are not counted, first")
    parser.add_argument("--images", type=int, default=48, help="of each split, for the case overhead")
    options = parser.parse_args()
    cases: dict[str, Case] = {
        "cusa": _cusa,
        "overhead": partial(_overhead, options.images),
        "resume": _resume,
        "search": _search,
        "reading": _reading,
    }
    print("| case | old s, median | new s, median | new / old, median | 95 % |\n|---|---|---|---|---|")
    with old_tree(options.commit) as old, tempfile.TemporaryDirectory() as folder:
        for name in options.case.split(","):
            work = Path(folder) / name
            work.mkdir()
            _compare(cases[name], old, options.data.resolve(), work, range(-options.warm, options.pairs))


def _compare(case: Case, old: Path, data: Path, work: Path, pairs: range) -> None:
    seconds: dict[str, dict[str, list[float]]] = {}
    for pair in pairs:  # those below 0 warm caches and compiled loops
        sides = [("old", old), ("new", HERE)]
        for side, tree in sides if pair % 2 else reversed(sides):
            (work / side).mkdir(exist_ok=True)
            for name, took in case(tree, data, work / side).items():
                if pair >= 0:
                    seconds.setdefault(name, {}).setdefault(side, []).append(took)
    digests = {side: (work / side / "digest").read_text() for side in ("old", "new")}
    if len(set(digests.values())) > 1:
        raise SystemExit(f"the trees made different stores: {digests}")
    for name, sides_of in seconds.items():
        _print(name, sides_of["old"], sides_of["new"])


def _print(name: str, old: list[float], new: list[float]) -> None:
    ratios = np.array(new) / np.array(old)
    draws = np.random.default_rng(0).integers(0, len(ratios), (10_000, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    medians = f"{statistics.median(old):.2f} | {statistics.median(new):.2f}"
    print(f"| {name} | {medians} | {np.median(ratios):.3f} | [{low:.3f}, {high:.3f}] |", flush=True)


def _cusa(tree: Path, data: Path, work: Path) -> Times:
    out = work / "store"
    shutil.rmtree(out, ignore_errors=True)
    root = str(data / "coco_cusa_1k")
    started = time.perf_counter()
    labelgen(
        tree, "build", "--dataset", "cusa", "--root", root, *bundled(tree), "--out", str(out), "--progress", "none"
    )
    took = time.perf_counter() - started
    _note_digest(out, work)
    return {"build of coco_cusa_1k": took}


def _overhead(images: int, tree: Path, data: Path, work: Path) -> Times:
    runtime = ["--runtime", "torch"] if "--runtime" in (tree / "benchmarks" / "overhead.py").read_text() else []
    command = ["benchmarks/overhead.py", "--data", str(data), "--images", str(images), "--rounds", "1", *runtime]
    printed = run(tree, command)
    cells = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    times = {name.removeprefix("| "): float(value) for name, value, *_ in cells if _is_number(value)}
    (work / "digest").write_text("rows are compared with the libraries' by overhead.py itself")
    return {name: times[name] for name in ("labelgen texts", "labelgen images", "build, without loading teachers")}


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()


def _resume(tree: Path, _data: Path, work: Path) -> Times:
    """Time a resume of a copy of one killed build, and the hashing of what it takes over."""
    killed, out = work / "killed", work / "store"
    if not killed.exists():
        _made_data(work / "data")
        _kill_late(tree, work, killed)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(killed, out)
    started = time.perf_counter()
    hashed = sum(len(blake3(path.read_bytes()).digest()) for path in _payload(out))
    hashing = time.perf_counter() - started
    assert hashed
    started = time.perf_counter()
    labelgen(tree, *_resume_command(work, out))
    took = time.perf_counter() - started
    _note_digest(out, work)
    return {"resume of flickr8k's size": took, "hashing of its files alone": hashing}


def _resume_command(work: Path, out: Path) -> list[str]:
    data = work / "data"
    text = f"text=precomputed(path={str(data / 'text.npy')!r}, modality='text')"
    image = f"image=precomputed(path={str(data / 'image.npy')!r}, modality='image')"
    command = ["build", "--dataset", "table", "--root", str(data), "--teacher", text, "--teacher", image]
    return [*command, "--k", "16", "--out", str(out), "--progress", "json"]


def _search(tree: Path, _data: Path, work: Path) -> Times:
    """Time the search of a whole build, as its manifest says."""
    data, out = work / "data", work / "store"
    if not data.exists():
        _made_data(data, *SEARCHED)
    shutil.rmtree(out, ignore_errors=True)
    text = f"text=precomputed(path={str(data / 'text.npy')!r}, modality='text')"
    command = ["build", "--dataset", "table", "--root", str(data), "--teacher", text, "--relation", "t2t"]
    labelgen(tree, *command, "--k", "64", "--out", str(out), "--progress", "none")
    _note_digest(out, work)
    stages = json.loads((out / "manifest.json").read_bytes())["stages"]
    return {"search of 50,000 captions": sum(stages[name]["seconds"] for name in ("search", "merge"))}


def _reading(tree: Path, _data: Path, work: Path) -> Times:
    """Run `READING` on a store that this tree made."""
    out = work / "store"
    if not out.exists():
        _made_data(work / "data")
        labelgen(tree, *_resume_command(work, out))
        _note_digest(out, work)
    times: Times = json.loads(run(tree, ["-c", READING, str(out)]))
    return times


def _made_data(folder: Path, images: int = IMAGES, captions: int = CAPTIONS) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    np.save(folder / "text.npy", draw.standard_normal((captions, TEXT_DIM), np.float32))
    np.save(folder / "image.npy", draw.standard_normal((images, IMAGE_DIM), np.float32))
    rows = [{"image_id": f"i{row % images}", "caption": f"caption {row}"} for row in range(captions)]
    rows.sort(key=lambda row: int(row["image_id"][1:]))
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _kill_late(tree: Path, work: Path, killed: Path) -> None:
    """Leave a build that was killed with SIGKILL when it began to measure."""
    command = [sys.executable, "-m", "labelgen", *_resume_command(work, killed)]
    with subprocess.Popen(
        command, cwd=tree, env=environment(tree), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("stage") == "measure":
                process.send_signal(signal.SIGKILL)
                break
        else:
            raise SystemExit("the build ended before it could be killed")


def _payload(out: Path) -> list[Path]:
    """What a resume takes over: arrays and parts."""
    return [path for name in ("embeddings", "neighbors", ".labelgen") for path in _files(out / name)]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _note_digest(out: Path, work: Path) -> None:
    digest = json.loads((out / "manifest.json").read_bytes())["content_digest"]
    (work / "digest").write_text(digest)


if __name__ == "__main__":
    main()
