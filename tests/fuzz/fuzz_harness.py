"""What every fuzz test shares: seeded mutations, runs of the command line, and what counts as a fault.

A fault is: exit code 70 or one that the help does not name, a traceback, more than `MAX_SECONDS` of processor time or
`MAX_WAIT` seconds in all, more memory than `MAX_GROWTH`, or more than `MAX_STDERR` characters of message. Which of the
documented exit codes a damaged input gets, and whether it is refused at all, is for tests of the part that reads it.

Inputs come from hypothesis as a seed and a number of mutations, so that a run is the same everywhere. A fault names
both; `LABELGEN_FUZZ_SEED` shifts all seeds, `LABELGEN_FUZZ_KEEP=FOLDER` keeps the inputs of faults there.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from labelgen.cli import exits
from labelgen.cli.main import cli

MAX_SECONDS, MAX_WAIT, MAX_STDERR = 10, 60, 10_000
#: Bytes by which this process, and bytes to which a process of its own, may grow: torch and numba need most of it.
MAX_GROWTH, MAX_PROCESS = 1 << 30, 2 << 30
_ADDRESS_SPACE = 6 << 30

#: A number of examples of the short and of the long form: `rounds(40, 2000)`.
Rounds = Sequence[Any]


class Hang(BaseException):
    """Time is up. Not an `Exception`: the command line must not take it for one of its own."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line gave."""

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float
    growth: int = 0
    raised: str = ""

    def faults(self) -> list[str]:
        """What must never happen, as sentences; empty where all is well."""
        text = self.stdout + self.stderr
        found = {
            f"it raised {self.raised}": self.raised,
            f"exit code {self.code}": self.code == exits.UNEXPECTED or self.code not in exits.EXIT_CODES,
            "a traceback": "Traceback (most recent call last)" in text and "--debug" not in self.arguments,
            f"{self.seconds:.1f} seconds of processor time": self.seconds > MAX_SECONDS,
            f"it grew by {self.growth >> 20} MiB": self.growth > MAX_GROWTH,
            f"{len(self.stderr):,} characters of message": len(self.stderr) > MAX_STDERR,
            "a refusal without a word": self.code in (2, 3, 4, 5, 6, 7) and not self.stderr.strip(),
        }
        return [sentence for sentence, wrong in found.items() if wrong]


def run(*arguments: object) -> Outcome:
    """Run `labelgen` in this process, with bounds on time and memory."""
    texts = tuple(map(str, arguments))
    before, started = _peak(), time.process_time()
    raised, stdout, stderr, code = "", "", "", exits.UNEXPECTED
    try:
        with warnings.catch_warnings(), _alarms(), _address_space():
            warnings.simplefilter("ignore")  # an error in these tests, but not for users
            result = CliRunner().invoke(cli, list(texts), prog_name="labelgen")
        code, stdout, stderr = result.exit_code, result.stdout, result.stderr
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raised = f"{type(result.exception).__name__}: {str(result.exception)[:500]}"
    except Hang:
        raised = "nothing before its time was up"
    return Outcome(texts, code, stdout, stderr, time.process_time() - started, _peak() - before, raised)


# The peak that the system reports of a child counts what its parent had before `exec`: the child writes down its own.
_ALONE = """
import atexit, pathlib, re
def note():
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path("peak").write_text(str(int(re.search(r"VmHWM:\\s*(\\d+)", status)[1]) << 10))
atexit.register(note)
from labelgen.cli.main import main
main()
"""


def run_alone(*arguments: object, folder: Path) -> Outcome:
    """Run `labelgen` in a process of its own: nothing it does to memory or time can end the tests."""
    texts = tuple(map(str, arguments))
    program = [sys.executable, "-c", _ALONE, *texts]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "stdout").open("w+") as stdout, (folder / "stderr").open("w+") as stderr:
        process = subprocess.Popen(
            program, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
        usage, status = _wait(process.pid, MAX_WAIT)
        process.returncode = status
        outputs = []
        for file in (stdout, stderr):
            file.seek(0)
            outputs.append(file.read(1 << 20))
    seconds = usage.ru_utime + usage.ru_stime
    raised = "" if status >= 0 else f"signal {-status}"
    peak = folder / "peak"  # not there where the child was killed, which is a fault of its own
    growth = (int(peak.read_text()) if peak.exists() else 0) - MAX_PROCESS + MAX_GROWTH  # so `faults` sees MAX_PROCESS
    return Outcome(texts, max(status, 0), outputs[0], outputs[1], seconds, max(0, growth), raised)


def check(outcome: Outcome, about: Path | None = None) -> None:
    """Fail on a fault, with the command and what it said; keep the input where that is asked for."""
    faults = outcome.faults()
    if not faults:
        return
    kept = ""
    if about is not None and (target := os.environ.get("LABELGEN_FUZZ_KEEP")):
        place = Path(target) / f"{time.time_ns()}"
        shutil.copytree(about, place, symlinks=True)
        kept = f"\nkept in {place}"
    said = outcome.stderr[:1_500]
    raise AssertionError(f"{'; '.join(faults)}\nlabelgen {' '.join(outcome.arguments)[:1_000]}\n{said}{kept}")


def rounds(short: int, long: int) -> Any:
    """The parameter `examples` of a fuzz test: a short form that always runs, and a long one marked slow."""
    import pytest

    return pytest.mark.parametrize(
        "examples", [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)]
    )


def fuzz(examples: int, body: Callable[[random.Random, int, Path], None]) -> None:
    """Call `body(draw, mutations, folder)` for many seeds; the folder is empty and goes away."""
    base = int(os.environ.get("LABELGEN_FUZZ_SEED", "0"))

    @seeded(base)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
    )
    @given(number=st.integers(0, 2**32 - 1), mutations=st.integers(1, 5))
    def example(number: int, mutations: int) -> None:
        with TemporaryDirectory(prefix="fuzz") as folder:
            body(random.Random(number + base), mutations, Path(folder))

    example()


# ------------------------------------------------------------------------------------------------------- mutations

#: Values that programs stumble over, as plain data.
ODD: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", " ", "a", "0", "-1", "1e9", "nan", "None", "..", "../../x", "/etc/passwd", "a/b", "a\\b", ".",
    "~", "C:\\x", "\0", "a\0b", "\x1b[31m", "\u202e", "\ufeff", "é", "e\u0301", "\U0001f600", "x" * 300, "x" * 70_000,
    "t2t", "image", "text", "max", "cpu", "minilm()", "a(", "a(b=", "a(b=[[[[[[1]]]]]])", [], {}, [None], [[]],
    {"": None}, {"a": {"b": []}}, [1, "a", None], [0] * 1_000, ["x"] * 50,
)  # fmt: skip

#: Pieces of text formats that begin or end something.
TOKENS: Sequence[bytes] = (
    b"\0", b"\n", b"\r", b"\r\n", b"\t", b" ", b",", b";", b"|", b'"', b"'", b'""', b"\\", b"#", b"#0", b"/", b"../",
    b"{", b"}", b"[", b"]", b"null", b"NaN", b"-", b"9" * 40, b"1e999", b"\xff", b"\xfe\xff", b"\xff\xfe",
    b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x1b[2J", b"\x89PNG\r\n\x1a\n", b"PAR1", b"PK\x03\x04",
    b"\x93NUMPY", b"A" * 5_000,
)  # fmt: skip


def mutated_bytes(data: bytes, draw: random.Random, count: int) -> bytes:
    """The bytes after `count` mutations: flips, cuts, copies, swaps, tokens, numbers."""
    work = bytearray(data)
    for _ in range(count):
        _MUTATIONS[draw.randrange(len(_MUTATIONS))](work, draw)
    return bytes(work)


def _flip(work: bytearray, draw: random.Random) -> None:
    if work:
        work[draw.randrange(len(work))] ^= 1 << draw.randrange(8)


def _replace(work: bytearray, draw: random.Random) -> None:
    start, stop = _span(work, draw)
    work[start:stop] = draw.choice(TOKENS)


def _insert(work: bytearray, draw: random.Random) -> None:
    place = draw.randint(0, len(work))
    work[place:place] = draw.choice(TOKENS) if draw.random() < 0.8 else draw.randbytes(draw.randint(1, 64))


def _cut(work: bytearray, draw: random.Random) -> None:
    start, stop = _span(work, draw)
    del work[start:stop]


def _end(work: bytearray, draw: random.Random) -> None:
    del work[draw.randint(0, len(work)) :]


def _copy(work: bytearray, draw: random.Random) -> None:
    start, stop = _span(work, draw)
    place = draw.randint(0, len(work))
    work[place:place] = work[start:stop]


def _number(work: bytearray, draw: random.Random) -> None:
    """A little-endian number where a length or an offset may stand."""
    size = draw.choice((1, 2, 4, 8))
    if len(work) >= size:
        place = draw.randrange(len(work) - size + 1)
        value = draw.choice((0, 1, -1, 127, 255, 2**15, 2**31 - 1, 2**32 - 1, 2**63 - 1)) % 2 ** (8 * size)
        work[place : place + size] = value.to_bytes(size, "little")


def _line(work: bytearray, draw: random.Random) -> None:
    """Lines exchanged, doubled or removed."""
    lines = bytes(work).split(b"\n")
    one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[one] = draw.choice((lines[other], lines[one] + lines[other], b""))
    work[:] = b"\n".join(lines)


def _span(work: bytearray, draw: random.Random) -> tuple[int, int]:
    start = draw.randint(0, len(work))
    return start, min(len(work), start + draw.choice((0, 1, 2, 8, 64, 512, len(work))))


_MUTATIONS = (_flip, _flip, _replace, _insert, _cut, _end, _copy, _number, _line)


def mutated_tree(document: Any, draw: random.Random, count: int) -> Any:
    """Plain data after `count` mutations of values, keys and lists anywhere in it."""
    tree = json.loads(json.dumps(document))
    for _ in range(count):
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(draw.choice(ODD))
        holder, key = draw.choice(places)
        _mutate_place(holder, key, draw, places)
    return tree


def _mutate_place(holder: Any, key: Any, draw: random.Random, places: Sequence[tuple[Any, Any]]) -> None:
    kind = draw.randrange(8)
    if kind <= 3:
        holder[key] = copy.deepcopy(draw.choice(ODD))  # a later mutation may change it in place
    elif kind == 4:
        del holder[key]
    elif kind == 5:  # the value of another place
        other, name = draw.choice(places)
        holder[key] = copy.deepcopy(other[name]) if _has(other, name) else None
    elif kind == 6:
        holder[key] = [holder[key]] if draw.random() < 0.5 else {"value": holder[key]}
    elif isinstance(holder, dict):
        holder[str(draw.choice(ODD))] = holder.pop(key)
    else:
        holder.insert(draw.randint(0, len(holder)), copy.deepcopy(holder[key]))


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


# ---------------------------------------------------------------------------------------------------------- bounds


@contextmanager
def _alarms() -> Iterator[None]:
    """Processor time, so that a busy machine is no fault; and a longer time in all, for what waits and does nothing."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Hang

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, MAX_SECONDS + 1), (signal.SIGALRM, signal.ITIMER_REAL, MAX_WAIT))
    before = [signal.signal(number, ring) for number, _, _ in clocks]
    for _, timer, seconds in clocks:
        signal.setitimer(timer, seconds, 1)  # and every second after it: a callback may swallow what is raised in it
    try:
        yield
    finally:
        for _, timer, _ in clocks:
            signal.setitimer(timer, 0)
        for (number, _, _), handler in zip(clocks, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _address_space() -> Iterator[None]:
    """A soft limit somewhat above what is mapped now: a wish for a terabyte fails at once and not after swapping."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _wait(pid: int, seconds: float) -> tuple[resource.struct_rusage, int]:
    """What a child used, and its exit status or minus its signal; it is killed when its time is up."""
    deadline = time.perf_counter() + seconds
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return usage, os.waitstatus_to_exitcode(status)
        if time.perf_counter() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.02)
