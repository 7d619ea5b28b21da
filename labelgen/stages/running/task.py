"""Tasks, their receipts, and when a task counts as done.

A task is small, picklable and idempotent: it names a function and plain arguments, writes its files atomically, and
then its receipt. It is done if an undamaged receipt with its fingerprint exists and every file listed there has the
checksum given there. All other tasks run again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from labelgen.fingerprint import digest, digest_file, fingerprint
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import read_below

_HASH_THREADS = 8
#: Checksums of files that this process has hashed, by path and by what changes when a file is written.
_hashed: dict[tuple[str, int, int, int, int], str] = {}


@dataclass(frozen=True)
class Output:
    """A file that a task wrote: path relative to the store, size, BLAKE3."""

    path: str
    bytes: int
    blake3: str


@dataclass(frozen=True)
class TaskResult:
    """The return value of the function of a task; `facts` must be plain JSON data."""

    outputs: tuple[Output, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A unit of work of at most about 30 s.

    Attributes:
        key: unique name, the path of its receipt under `receipts/`; its first part is the stage.
        inputs: fingerprint of everything that decides the result.
        work: name in `labelgen.stages.running.runner.WORK` of a function: `function(root, **arguments, **places)`.
        arguments: plain JSON data.
        rows: number of its rows, for progress and rates.
        places: paths as further arguments, which do not count: a moved data set is the same data set.
    """

    key: str
    inputs: str
    work: str
    arguments: Mapping[str, Any]
    rows: int
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return fingerprint([self.key, self.inputs, self.work, self.arguments])


@dataclass(frozen=True)
class Receipt:
    """Proof that a task was done, a file in `receipts/`."""

    task: str
    fingerprint: str
    rows: int
    outputs: tuple[Output, ...]
    seconds: float
    peak_bytes: int
    facts: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The file of the receipt; `digest` is the BLAKE3 of its other fields."""
        data = asdict(self)
        return json.dumps({**data, "digest": _digest_of(data)}, indent=1).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Receipt:
        """The inverse of `to_bytes`.

        Raises:
            ValueError, TypeError, KeyError: not a receipt as `to_bytes` writes it, to the last bit.
        """
        data = json.loads(raw)
        found = data.pop("digest")
        receipt = cls(**{**data, "outputs": tuple(Output(**output) for output in data["outputs"])})
        if found != _digest_of(data) or receipt.to_bytes() != raw:
            raise ValueError("the receipt was changed after it was written")
        named = all(
            type(output.bytes) is int and isinstance(output.path, str) and isinstance(output.blake3, str)
            for output in receipt.outputs
        )
        if not (named and type(receipt.rows) is int and isinstance(receipt.facts, dict)):
            raise ValueError("not the receipt of a task")
        return receipt

    @property
    def fact(self) -> FileFact:
        """Size and checksum of the file of the receipt."""
        raw = self.to_bytes()
        return FileFact(len(raw), digest(raw))


def _digest_of(data: Mapping[str, Any]) -> str:
    return digest(json.dumps(data, sort_keys=True).encode())


def receipt_path(key: str) -> str:
    return f"{layout.RECEIPTS}/{key}.json"


def find_receipt(root: Path, task: Task, *, outputs: bool = True) -> Receipt | None:
    """The receipt of a task that is done, else None.

    `outputs=False` does not check its files: parts are removed when the shard that they made is complete.
    """
    receipt = read_receipt(root, task.key) if not outputs else _checked(root, task)[0]
    return receipt if receipt is not None and receipt.fingerprint == task.fingerprint else None


def is_whole(path: Path, output: Output | FileFact) -> bool:
    """Whether a file hashes to its checksum; a file is hashed once a process, as long as nobody writes to it."""
    try:
        status = path.stat()
        if status.st_size != output.bytes:
            return False
        key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if key not in _hashed:
            _hashed[key] = digest_file(path)
        return _hashed[key] == output.blake3
    except OSError:
        return False


def read_receipt(root: Path, key: str) -> Receipt | None:
    """The receipt under a key, None where there is none or it is damaged (then its task is not done)."""
    try:
        return Receipt.from_bytes(read_below(root, receipt_path(key)))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


class Outstanding(NamedTuple):
    """Receipts of the tasks that are done, the other tasks, and the damaged files of finished tasks among these."""

    done: list[Receipt]
    todo: list[Task]
    damaged: list[str]


def outstanding(root: Path, tasks: Sequence[Task]) -> Outstanding:
    """The tasks that are done and those that are not; files are hashed in several threads."""
    found = Outstanding([], [], [])
    with ThreadPoolExecutor(_HASH_THREADS) as pool:
        for task, (receipt, damaged) in zip(tasks, pool.map(lambda task: _checked(root, task), tasks), strict=True):
            found.damaged.extend(damaged)
            if receipt is None:
                found.todo.append(task)
            else:
                found.done.append(receipt)
    return found


def _checked(root: Path, task: Task) -> tuple[Receipt | None, list[str]]:
    """The receipt of a task that is done, else None and its damaged files; a part that was removed is not damaged."""
    receipt = read_receipt(root, task.key)
    if receipt is None:
        path = receipt_path(task.key)
        return None, [path] if (root / path).exists() else []
    if receipt.fingerprint != task.fingerprint:
        return None, []
    damaged = [output.path for output in receipt.outputs if not is_whole(root / output.path, output)]
    return None if damaged else receipt, [path for path in damaged if (root / path).exists()]
