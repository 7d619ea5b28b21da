"""Size and nesting of the library, and how much of it one training batch and one build enter.

    python benchmarks/structure.py                  # this checkout
    python benchmarks/structure.py f7d3377          # an older commit beside it

A batch is 256 pairs of a made store, labelled by a `SoftLabeler` that has labelled another batch before. Files and
functions count once, by the interpreter's call events; calls count all events. The build is
`labelgen build --dataset demo` with the bundled teachers and one worker in the same process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import CodeType
from typing import Any

from trees import HERE, old_tree, run

BATCH = 256
SCHEMES = ("cusa(mode='add')", "bcls()")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="an older commit")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measured()))
        return
    found = {}
    if options.commit:
        with old_tree(options.commit) as old:
            found[options.commit] = _in(old)
    found["this checkout"] = _in(HERE)
    _print(found)


def _in(tree: Path) -> dict[str, Any]:
    """Counts of a tree, by a process that imports labelgen from there."""
    lines = {
        path.relative_to(tree / "labelgen"): len(path.read_text().splitlines())
        for path in (tree / "labelgen").rglob("*.py")
    }
    folders: dict[str, list[int]] = {}
    for path, count in lines.items():
        folders.setdefault(path.parts[0] if len(path.parts) > 1 else "(top)", []).append(count)
    fullest = Counter(str(Path("labelgen") / path.parent) for path in lines).most_common(1)[0]
    script = str(Path(__file__).resolve())
    return {
        "rows": {
            "lines": sum(lines.values()),
            "modules": len(lines),
            "files in the fullest folder": f"{fullest[1]} ({fullest[0]})",
            **json.loads(run(tree, [script, "--measure"]).splitlines()[-1]),
        },
        "folders": {name: f"{sum(counts):,} / {len(counts)}" for name, counts in folders.items()},
    }


def _print(found: dict[str, dict[str, Any]]) -> None:
    for part, title in (("rows", ""), ("folders", "folder: lines / modules")):
        print(f"| {title} | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
        names = {name: None for tree in found.values() for name in tree[part]}
        for name in sorted(names) if title else names:
            cells = (tree[part].get(name, "-") for tree in found.values())
            print(f"| {name} | {' | '.join(f'{cell:,}' if isinstance(cell, int) else cell for cell in cells)} |")
        print()


def _measured() -> dict[str, str]:
    """Entered by the labelgen that this process imports."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for scheme in SCHEMES:
            functions = _entered(_warm_batch(Path(folder) / scheme.partition("(")[0], scheme))
            found[f"{scheme}: files / functions / calls of a warm batch"] = _counts(functions)
        functions = _entered(lambda: _demo_build(Path(folder) / "demo"))
        found["demo build: files / functions entered"] = _counts(functions).rpartition(" / ")[0]
    return found


def _counts(functions: Counter[CodeType]) -> str:
    files = {code.co_filename for code in functions}
    return f"{len(files)} / {len(functions)} / {functions.total():,}"


def _warm_batch(path: Path, scheme: str) -> Callable[[], Any]:
    import labelgen
    from labelgen import loader
    from labelgen.testing.stores import make_store

    store = labelgen.open(make_store(path, n_images=2 * BATCH, lists=False))
    labeler = getattr(loader, "SoftLabeler", None) or loader.Labeller  # its name in older commits
    made = labeler(store, scheme)
    batches = [
        (store.image_ids(range(first, first + BATCH)), store.caption_ids(range(5 * first, 5 * (first + BATCH), 5)))
        for first in (0, BATCH)
    ]
    made(*batches[0])
    return lambda: made(*batches[1])


def _demo_build(out: Path) -> None:
    from labelgen.cli.main import cli

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        cli(["build", "--dataset", "demo", "--out", str(out), "--set", "run.workers=1"], standalone_mode=False)


def _entered(call: Callable[[], Any]) -> Counter[CodeType]:
    """Python functions of labelgen that a call enters, and how often."""
    import labelgen

    folder = str(Path(labelgen.__file__).parent)
    seen: Counter[CodeType] = Counter()

    def note(frame: Any, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            seen[frame.f_code] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return seen


if __name__ == "__main__":
    main()
