"""Python objects that the caller gives to a build: their specs are texts in recipes, the objects live in this table.

A recipe or a store never names code: a spec of an object is resolved only while its caller gives the object.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from labelgen.errors import ConfigError, shown
from labelgen.specs import Spec


class Given(Protocol):
    """A teacher given as an object."""

    def make(self, device: str) -> Any:
        """The teacher on a torch device, made once a device."""
        ...

    @property
    def module(self) -> str:
        """Name of the module that a worker process must import to unpickle the object."""
        ...


#: Spec text -> object, of every running call; a worker process has one entry, which stays.
_tables: list[Mapping[str, Given]] = []


def spec_of(identity: str, name: str, runtime: str = "torch") -> Spec:
    """The spec of an object; the runtime torch is not written."""
    return Spec.of("object", identity=identity, name=name, **({} if runtime == "torch" else {"runtime": runtime}))


@contextmanager
def giving(objects: Mapping[str, Given]) -> Iterator[None]:
    """Resolve the specs of these objects in the block, in all threads of this process."""
    table = dict(objects)
    _tables.append(table)
    try:
        yield
    finally:
        _tables[:] = [other for other in _tables if other is not table]


def find(spec: str) -> Given | None:
    """The object of a spec text, None where no running call gives it."""
    return next((table[spec] for table in reversed(_tables) if spec in table), None)


def packed() -> bytes:
    """Pickle of the objects of the running calls, for worker processes; empty where there are none.

    Raises:
        ConfigError: one of them does not pickle, or its module cannot be imported by another process.
    """
    pickles = dict[str, bytes]()
    for spec, item in {spec: item for table in _tables for spec, item in table.items()}.items():
        interactive = item.module == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
        try:
            if interactive:
                raise pickle.PicklingError("it is defined in a notebook or an interactive session")
            pickles[spec] = pickle.dumps(item)
        except Exception as error:  # objects raise anything when they are pickled
            raise ConfigError(
                f"{spec} cannot be sent to worker processes",
                found=shown(f"{type(error).__name__}: {error}"),
                expected="an object that pickles",
                todo="define it at the top level of a module that workers can import (no lambda, no inner function), "
                "give 'module:factory' instead of the object, or build in this process (workers=1)",
            ) from error
    return pickle.dumps(pickles) if pickles else b""


def install(data: bytes) -> None:
    """Take over the objects that the parent of this worker process packed."""
    if data:  # written by the parent process, never read from a file
        pickles: dict[str, bytes] = pickle.loads(data)  # noqa: S301
        _tables.append({spec: pickle.loads(item) for spec, item in pickles.items()})  # noqa: S301
