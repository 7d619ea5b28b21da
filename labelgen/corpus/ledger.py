"""Account of a data set: everything that was read is counted as used, quarantined or skipped.

A reader calls `Ledger.seen` where it parses bytes (members of an archive, lines and rows of a table, files of a folder,
entries of a JSON list), and `used`, `quarantined` or `skipped` where it decides about the item. `Ledger.closed` refuses
an account that does not balance, so that no item is lost without an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from labelgen.corpus.text.names import repaired

#: Longest example: a name, not the bytes of a picture.
_EXAMPLE_CHARACTERS = 200


@dataclass(frozen=True)
class Tally:
    """Number of items with the same outcome.

    Attributes:
        count: number of items.
        example: name of the first one, at most 200 characters.
        loud: whether users are likely to miss them (photographs, captions): shown as a note.
    """

    count: int
    example: str
    loud: bool = False


@dataclass(frozen=True)
class Account:
    """Everything of one unit: `seen` = `used` + quarantined + skipped.

    Attributes:
        unit: plural noun of what is counted: `members`, `rows`, `lines`, `files`, `entries`, `images`, `captions` ...
        seen: counted where the bytes are read.
        used: those that became images, captions or facts of them.
        quarantined, skipped: reason or kind -> tally.
    """

    unit: str
    seen: int
    used: int
    quarantined: Mapping[str, Tally] = field(default_factory=dict)
    skipped: Mapping[str, Tally] = field(default_factory=dict)

    @property
    def balance(self) -> int:
        """`seen` less everything that is accounted for; 0 in a correct account."""
        booked = sum(tally.count for tally in (*self.quarantined.values(), *self.skipped.values()))
        return self.seen - self.used - booked

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; see `schemas/manifest.v1.json`, `corpus.ledger`."""
        return {
            "unit": self.unit,
            "seen": self.seen,
            "used": self.used,
            "quarantined": {kind: vars(tally) for kind, tally in sorted(self.quarantined.items())},
            "skipped": {kind: vars(tally) for kind, tally in sorted(self.skipped.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Account:
        """The inverse of `to_json`."""
        tallies = {
            name: {kind: Tally(**tally) for kind, tally in data[name].items()} for name in ("quarantined", "skipped")
        }
        return cls(data["unit"], data["seen"], data["used"], **tallies)


class Ledger:
    """The account while a data set is read. Units appear in the order in which they are first seen."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._booked: dict[tuple[str, str, str], Tally] = {}

    def seen(self, unit: str, count: int = 1) -> None:
        """Items of a unit were read."""
        self._seen[unit] = self._seen.get(unit, 0) + count

    def used(self, unit: str, count: int = 1) -> None:
        """Items of a unit became part of the corpus."""
        self._used[unit] = self._used.get(unit, 0) + count

    def quarantined(self, unit: str, reason: str, example: str) -> None:
        """An item that should have been used and cannot be: damaged, empty, undecodable."""
        self._book(unit, "quarantined", reason, Tally(1, example, loud=True))

    def skipped(self, unit: str, kind: str, example: str, count: int = 1, *, loud: bool = False) -> None:
        """Items that were left out by kind. `loud` for what looks like a photograph or a caption."""
        self._book(unit, "skipped", kind, Tally(count, example, loud))

    def _book(self, unit: str, outcome: str, kind: str, tally: Tally) -> None:
        if not tally.count:
            return
        first = Tally(0, repaired(tally.example[:_EXAMPLE_CHARACTERS]), tally.loud)
        old = self._booked.get((unit, outcome, kind), first)
        self._booked[unit, outcome, kind] = Tally(old.count + tally.count, old.example, old.loud or tally.loud)

    def closed(self) -> tuple[Account, ...]:
        """The accounts, one a unit.

        Raises:
            RuntimeError: an item is not accounted for, which is a fault of the reader.
        """
        accounts = []
        for unit in dict.fromkeys([*self._seen, *self._used, *(unit for unit, _, _ in self._booked)]):
            outcomes = {
                outcome: {kind: tally for (u, f, kind), tally in self._booked.items() if (u, f) == (unit, outcome)}
                for outcome in ("quarantined", "skipped")
            }
            account = Account(unit, self._seen.get(unit, 0), self._used.get(unit, 0), **outcomes)
            if account.balance:
                raise RuntimeError(f"{abs(account.balance)} {unit} are not accounted for: {account}")
            accounts.append(account)
        return tuple(accounts)


def rebooked(accounts: Iterable[Account], unit: str, kind: str, names: Sequence[str]) -> tuple[Account, ...]:
    """The accounts with items that were used booked as skipped: those that a later step leaves out."""
    if not names:
        return tuple(accounts)
    return tuple(
        replace(
            account,
            used=account.used - len(names),
            skipped={**account.skipped, kind: Tally(len(names), names[0][:_EXAMPLE_CHARACTERS])},
        )
        if account.unit == unit
        else account
        for account in accounts
    )


def with_quarantine(
    accounts: Iterable[Account], quarantine: Iterable[tuple[str, int, str, str]]
) -> tuple[Account, ...]:
    """The accounts of images and captions with the rows of a quarantine table.

    Args:
        accounts: of a corpus; what they say of quarantined images and captions is replaced.
        quarantine: (kind, row, id, reason): the first reason of a row counts.
    """
    first: dict[tuple[str, int], tuple[str, str]] = {}
    for kind, row, name, reason in quarantine:
        first.setdefault((f"{kind}s", row), (reason, name))
    return tuple(
        _with_reasons(account, [found for (unit, _), found in first.items() if unit == account.unit])
        if account.unit in ("images", "captions")
        else account
        for account in accounts
    )


def _with_reasons(account: Account, found: Sequence[tuple[str, str]]) -> Account:
    tallies: dict[str, Tally] = {}
    for reason, name in found:
        old = tallies.get(reason, Tally(0, name[:_EXAMPLE_CHARACTERS]))
        tallies[reason] = replace(old, count=old.count + 1)
    kept = account.used + sum(tally.count for tally in account.quarantined.values())
    return replace(account, used=kept - len(found), quarantined=tallies)


def ledger_notes(accounts: Iterable[Account]) -> list[str]:
    """One sentence for every tally that users are likely to miss."""
    return [
        f"{tally.count:,} of {account.seen:,} {account.unit} {outcome}: {kind} (for example {tally.example})"
        for account in accounts
        for outcome, tallies in (("quarantined", account.quarantined), ("skipped", account.skipped))
        for kind, tally in sorted(tallies.items())
        if tally.loud
    ]
