"""Functions run in forked children of one process that has imported what a build imports: a killed build costs little.

A test asks the fixture `forked`:

    ended = forked(function, *arguments, **named)
    ended = forked(command_line, "build", "--out", store, kill=("after", "models/*", 1))

The function is importable by the tests; the child imports it, has the test's environment, and its output is kept.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

#: What builds import: children find it there.
_IMPORTED = (
    "polars", "pyarrow.parquet", "safetensors.numpy", "torch", "numba", "openvino", "distributed",
    "labelgen.cli.main", "labelgen.cli.commands.build", "labelgen.corpus.adapters.demo",
    "labelgen.corpus.adapters.table",
    "labelgen.pipeline.working", "labelgen.similarity.reference", "labelgen.similarity.tiled.engine",
    "labelgen.stages.work.embed", "labelgen.stages.work.stats", "labelgen.teachers.adapters.bundled",
    "labelgen.teachers.precomputed.teacher", "labelgen.teachers.siamese.teacher", "labelgen.testing.killer",
)  # fmt: skip

#: (`before` or `after` the rename, of which file, for which time), see `labelgen.testing.killer`.
Moment = tuple[str, str, int]


@dataclass(frozen=True)
class Ended:
    """How a child ended: by a signal, or with what the function returned; and what it printed."""

    signal: int
    value: Any
    printed: str
    errors: str


class Forked:
    """The parent of the children. It starts with the first one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Ended:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", __file__],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        writing, reading = self._process.stdin, self._process.stdout
        assert writing is not None
        assert reading is not None
        call = pickle.dumps((function, arguments, named))
        pickle.dump((sys.path, dict(os.environ), call), writing)
        writing.flush()
        ended, failed = pickle.load(reading)
        assert not failed, failed
        return Ended(*ended)

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate(timeout=30)


def command_line(
    *arguments: object,
    kill: Moment | None = None,
    log: Path | None = None,
    folder: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Run the command line; its exit code.

    Args:
        kill: when; the option --out says which files count.
        log: gets a line that says where it was killed.
        folder: to run in.
        settings: values of `module.name` during the run.
    """
    from labelgen.cli.main import main
    from labelgen.testing.killer import kill_at

    words = [str(argument) for argument in arguments]
    os.environ["COLUMNS"] = "200"  # as wide as any line
    if folder is not None:
        os.chdir(folder)
    for name, value in (settings or {}).items():
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)
    if kill is not None:
        when, pattern, count = kill
        store = Path(words[words.index("--out") + 1])
        kill_at(when, pattern, count, log or Path(os.devnull), store)  # type: ignore[arg-type]
    sys.argv = ["labelgen", *words]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def _child(call: bytes, path: list[str], environment: dict[str, str], answer: IO[bytes]) -> NoReturn:
    with contextlib.suppress(BrokenPipeError):
        try:
            sys.path[:] = path
            os.environ.clear()
            os.environ.update(environment)
            function, arguments, named = pickle.loads(call)
            told = (function(*arguments, **named), "")
        except BaseException:  # the test judges it
            told = (None, traceback.format_exc())
        sys.stdout.flush()
        sys.stderr.flush()
        pickle.dump(told, answer)
        answer.flush()
    os._exit(0)


def _run(path: list[str], environment: dict[str, str], call: bytes) -> tuple[tuple[Any, ...], str]:
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as answer:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(printed.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            _child(call, path, environment, answer)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (printed, errors, answer):
            file.seek(0)
        told = answer.read()
        value, failed = pickle.loads(told) if told else (None, "" if code < 0 else f"exit code {code}")
        said = (printed.read().decode(), errors.read().decode())
    return (max(0, -code), value, *said), failed


def _serve() -> None:
    os.fsync = lambda _handle: None  # a killed process loses nothing that it has written
    for name in _IMPORTED:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    with os.fdopen(os.dup(1), "wb") as answers:
        while True:
            try:
                job = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump(_run(*job), answers)
            answers.flush()


if __name__ == "__main__":
    _serve()
