"""Equal inputs, equal fingerprints; transient fields do not count; borders do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from labelgen.fingerprint import TRANSIENT, digest, digest_file, digest_many, fingerprint
from labelgen.specs import Spec


@dataclass(frozen=True)
class Item:
    name: str
    workers: int = field(default=1, metadata=TRANSIENT)


def test_transient_fields_do_not_count() -> None:
    assert fingerprint(Item("a", 1)) == fingerprint(Item("a", 8)) == fingerprint({"name": "a"})
    assert fingerprint(Item("a")) != fingerprint(Item("b"))


def test_order_of_keys_does_not_count_but_that_of_lists_does() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint((1, 2)) == fingerprint([1, 2])
    assert fingerprint(Spec.of("f", a=1)) == fingerprint("f(a=1)")


def test_known_value() -> None:
    """A stored fingerprint must mean the same in every version."""
    assert fingerprint({"k": 64, "relations": ["t2t"]}) == digest(b'{"k":64,"relations":["t2t"]}')


def test_borders_count() -> None:
    assert digest_many([b"ab", b"c"]) != digest_many([b"a", b"bc"])


def test_a_file_has_the_digest_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == digest(data)


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, float("nan")])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint(value)
