"""Run a notebook on the demo store and save its outputs in it.

    python docs/notebooks/save_outputs.py docs/notebooks/audit.ipynb WORK

`WORK` is a folder with `stores/demo` in it (the notebook builds it there otherwise). Cells are run as a kernel would:
the value of the last expression is shown, as HTML where it has that form. `tests/test_notebooks.py` runs them too.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any


def run(source: str, names: dict[str, Any]) -> dict[str, str] | None:
    """Run a cell; what it shows by media type, None where it shows nothing."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)  # noqa: S102 - our own documentation
    if last is None:
        return None
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # noqa: S307
    if hasattr(value, "_repr_html_"):
        return {"text/html": value._repr_html_()}
    return {"text/plain": repr(value)}


def saved(book: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of a run in the current folder."""
    names: dict[str, Any] = {}
    count = 0
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        shown = run("".join(cell["source"]), names)
        cell["execution_count"] = count
        cell["outputs"] = [] if shown is None else [
            {"output_type": "execute_result", "execution_count": count, "metadata": {},
             "data": {kind: text.splitlines(keepends=True) for kind, text in shown.items()}}
        ]  # fmt: skip
    return book


if __name__ == "__main__":
    path = Path(sys.argv[1]).absolute()
    os.chdir(sys.argv[2])
    made = saved(json.loads(path.read_text(encoding="utf-8")))
    text = json.dumps(made, indent=1, ensure_ascii=False).replace(f"{Path.cwd()}/", "")
    path.write_text(text + "\n", encoding="utf-8")
