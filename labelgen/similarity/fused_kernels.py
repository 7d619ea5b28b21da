"""Compiled loops of the fused engine: what looks at every similarity, and the lists that take what matters.

Similarities of a tile are compared as integers (`fused_bits`), 32 or 64 at a time. All functions use the calling thread
alone and release the interpreter's lock.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from labelgen.similarity.fused_bits import EVERYTHING, NOTHING, compiled, floor_key, key_of_bits, number_of, turned

#: Similarities compared between two looks at the result: two vectors of 32 short integers.
_CHUNK = 64
#: Bins of a histogram of similarities in [-1, 1], which finds first thresholds.
_BINS = 4096
_SCALE = _BINS / 2.125
#: Halvings of the range of a list's entries, for a floor near the best possible one.
_BISECTIONS = 12
#: A member that is not known: several rows of a group may hold the maximum.
SEVERAL = np.uint32(0xFFFFFFFF)

inlined: Any = njit(nogil=True, cache=True, inline="always")


# ---------------------------------------------------------------------------------------------------------- the scan


@compiled
def scan(
    tile: Any, first: Any, row_floor: Any, column_floor: Any, row_image: Any,
    column_image: Any, hits: Any, keys: Any,
) -> Any:  # fmt: skip
    """List what is above the floor of its row or of its column, from row `first` on, until `hits` may be full.

    Args:
        tile: bits of computed similarities, [m, n].
        row_floor, column_floor: in the tile's own type, [m] and [n].
        row_image, column_image: image of every row and column, -1 for dead ones; equal images are left out.
        hits: (row, column) int32 [capacity >= n, 2]; keys: int32 [capacity].

    Returns:
        (number of hits, first row that was not looked at).
    """
    rows, columns = tile.shape
    whole = columns - columns % _CHUNK
    count = 0
    for row in range(first, rows):
        if count + columns > len(keys):
            return count, row
        image, floor = row_image[row], row_floor[row]
        if image < 0:
            continue
        line = tile[row]
        for start in range(0, whole, _CHUNK):
            part, floors = line[start : start + _CHUNK], column_floor[start : start + _CHUNK]
            above = False
            for place in range(_CHUNK):
                key = turned(part[place])
                above |= (key > floor) | (key > floors[place])
            if above:
                for place in range(_CHUNK):
                    key = turned(part[place])
                    if key > floor or key > floors[place]:
                        column = start + place
                        other = column_image[column]
                        if other >= 0 and other != image:
                            hits[count, 0], hits[count, 1] = row, column
                            keys[count] = key_of_bits(part[place])
                            count += 1
        for column in range(whole, columns):
            key = turned(line[column])
            if key > floor or key > column_floor[column]:
                other = column_image[column]
                if other >= 0 and other != image:
                    hits[count, 0], hits[count, 1] = row, column
                    keys[count] = key_of_bits(line[column])
                    count += 1
    return count, rows


# --------------------------------------------------------------------------------------------------------- the lists


@compiled
def _lower_bound(entries: Any, count: Any, rank: Any) -> Any:
    """An entry that at least `rank` of the first `count` entries reach, close to the rank-th largest.

    Bisection: counting is a vector loop, and a dozen of them take less time than one selection.
    """
    low, high = entries[0], entries[0]
    for place in range(count):
        low, high = min(low, entries[place]), max(high, entries[place])
    for _ in range(_BISECTIONS):
        middle = low + ((high - low) >> np.uint64(1))
        above = 0
        for place in range(count):
            above += entries[place] >= middle
        if above >= rank:
            low = middle
        else:
            high = middle
    return low


@compiled
def _key_of_entry(entry: Any) -> Any:
    return np.int32(np.int64(entry >> np.uint64(32)) - 0x80000000)


@compiled
def _entry(key: Any, unit: Any) -> Any:
    return (np.uint64(np.int64(key) + 0x80000000) << np.uint64(32)) | np.uint64(unit)


@compiled
def tighten(row: Any, k: Any, flat: Any, relative: Any, counts: Any, limits: Any, floors: Any, entries: Any,
            members: Any) -> None:  # fmt: skip
    """Raise the floor of one list to what its entries allow, and drop what is below it."""
    count = counts[row]
    if count > k:
        floor = floor_key(number_of(_key_of_entry(_lower_bound(entries[row], count, k + 1))), flat, relative)
        if floor > floors[row]:
            floors[row] = floor
            least = _entry(floor, 0xFFFFFFFF)
            kept = 0
            for place in range(count):  # without a branch: which ones stay cannot be predicted
                above = entries[row, place] > least
                entries[row, kept] = entries[row, place]
                if members.shape[1]:
                    members[row, kept] = members[row, place]
                kept += above
            count = kept
    counts[row] = count
    limits[row] = min(entries.shape[1], max(count, k + 1) + 16 + (k >> 1))


@compiled
def tighten_all(low: Any, high: Any, k: Any, flat: Any, relative: Any, counts: Any, limits: Any, floors: Any,
                entries: Any, members: Any) -> None:  # fmt: skip
    """`tighten` for the lists [low, high)."""
    for row in range(low, high):
        tighten(row, k, flat, relative, counts, limits, floors, entries, members)


@compiled
def _made_room(row: Any, key: Any, k: Any, flat: Any, relative: Any, counts: Any, limits: Any, floors: Any,
               entries: Any, members: Any) -> Any:  # fmt: skip
    """Raise the floor of a list that has reached its limit; whether `key` is still above it.

    Soon and often: a floor that is too low costs more places than finding a better one.
    """
    tighten(row, k, flat, relative, counts, limits, floors, entries, members)
    if counts[row] == entries.shape[1]:
        counts[row], floors[row] = -1, NOTHING  # more near ties than a list can hold: searched again otherwise
    return key > floors[row]


@compiled
def offer_rows(hits: Any, hit_keys: Any, count: Any, side: Any, list_start: Any, unit_start: Any, k: Any, flat: Any,
               relative: Any, counts: Any, limits: Any, floors: Any, entries: Any, members: Any) -> None:  # fmt: skip
    """Take hits into lists of rows with rows as candidates. `side`: 0 where lists are the tile's rows, 1 its columns.

    `list_start`, `unit_start`: list and candidate of the first row and column (or column and row) of the tile.
    """
    for hit in range(count):
        row = list_start + hits[hit, side]
        if hit_keys[hit] > floors[row]:
            if counts[row] == limits[row] and not _made_room(
                row, hit_keys[hit], k, flat, relative, counts, limits, floors, entries, members
            ):
                continue
            # Only this much is inlined: a call with all these arrays costs as much as ten comparisons.
            entries[row, counts[row]] = _entry(hit_keys[hit], unit_start + hits[hit, 1 - side])
            counts[row] += 1


@inlined
def _best(bits: Any, images: Any) -> Any:
    """(key, position, second key) of the largest of the similarities of a group, dead members left out."""
    best, second, where = EVERYTHING, EVERYTHING, -1
    for place in range(len(bits)):
        if images[place] >= 0:
            key = key_of_bits(bits[place])
            if key > best:
                best, second, where = key, best, place
            elif key > second:
                second = key
    return best, where, second


@inlined
def _sure(best: Any, second: Any, flat: Any, relative: Any) -> Any:
    """Whether the largest computed similarity of a group belongs to its largest similarity for certain."""
    if second == EVERYTHING:
        return True
    high, low = number_of(best), number_of(second)
    return low + (flat + relative * abs(low)) < high - (flat + relative * abs(high))


@compiled
def offer_groups(tile: Any, hits: Any, hit_keys: Any, count: Any, side: Any, grouped: Any,
                 row_image: Any, offsets: Any, met: Any, list_start: Any, unit_start: Any, member_start: Any, k: Any,
                 flat: Any, relative: Any, counts: Any, limits: Any, floors: Any, entries: Any, members: Any,
                 ) -> None:  # fmt: skip
    """Take hits into lists where candidates (grouped = 1) or queries (grouped = 0) are images, the maxima of rows.

    Args:
        tile: [lists' axis, candidates' axis]: transposed where the lists are the tile's columns (side = 1).
        row_image: image of every row of the grouped axis, -1 for dead rows.
        offsets: first row of every image, and one more.
        met: the last image that every row of the other axis was compared with, int32, -1 at the start of a tile.
        list_start, unit_start: list and candidate of position 0 (where lists are images': the list of image 0).
        member_start: row of position 0 of the grouped axis.
    """
    for hit in range(count):
        inner, other = (hits[hit, 1 - side], hits[hit, side]) if grouped else (hits[hit, side], hits[hit, 1 - side])
        image = row_image[inner]
        row, unit = (list_start + other, image) if grouped else (list_start + image, unit_start + other)
        # What another member of the group exceeds is a hit of its own.
        if hit_keys[hit] <= floors[row] or met[other] == image:
            continue
        met[other] = image
        low, high = offsets[image] - member_start, offsets[image + 1] - member_start
        bits = tile[other, low:high] if grouped else tile[low:high, other]
        best, where, second = _best(bits, row_image[low:high])
        if where >= 0:
            if counts[row] == limits[row] and not _made_room(
                row, best, k, flat, relative, counts, limits, floors, entries, members
            ):
                continue
            sure = _sure(best, second, flat, relative)
            members[row, counts[row]] = np.uint32(member_start + low + where) if sure else SEVERAL
            entries[row, counts[row]] = _entry(best, unit)
            counts[row] += 1


# -------------------------------------------------------------------------------------------------- first thresholds


@compiled
def _first_floor(values: Any, count: Any, k: Any, flat: Any, relative: Any, bins: Any) -> Any:
    """The floor that `count` similarities allow, from a histogram of them."""
    if count <= k:
        return EVERYTHING
    bins[:] = 0
    for place in range(count):
        bins[min(_BINS - 1, max(0, int((values[place] + 1.0625) * _SCALE)))] += 1
    left, number = k + 1, _BINS
    while left > 0:
        number -= 1
        left -= bins[number]
    if number == 0:
        return EVERYTHING
    return floor_key(np.float32((number - 0.5) / _SCALE - 1.0625), flat, relative)


@compiled
def seed_rows(tile: Any, image: Any, others: Any, grouped: Any, list_start: Any, k: Any, flat: Any, relative: Any,
              floors: Any) -> None:  # fmt: skip
    """First floors of lists of rows from one tile; `grouped`: candidates are images.

    Args:
        tile: [lists, candidates]; image, others: image of every row on the two axes, -1 for dead rows.
        list_start: list of position 0.
    """
    rows, columns = tile.shape
    values, bins = np.empty(columns, np.float32), np.empty(_BINS, np.int32)
    for row in range(rows):
        own = image[row]
        if own < 0:
            continue
        count, last = 0, -1
        for column in range(columns):
            other = others[column]
            if other >= 0 and other != own:
                value = number_of(key_of_bits(tile[row, column]))
                if grouped and other == last:
                    values[count - 1] = max(values[count - 1], value)
                else:
                    values[count] = value
                    count += 1
                    last = other
        floors[list_start + row] = _first_floor(values, count, k, flat, relative, bins)


@compiled
def seed_images(tile: Any, image: Any, others: Any, offsets: Any, start: Any, first: Any, last: Any, list_start: Any,
                k: Any, flat: Any, relative: Any, floors: Any) -> None:  # fmt: skip
    """First floors of the lists of the images [first, last), whose rows are one axis of the tile; row 0 is `start`."""
    columns = tile.shape[1]
    best, values, bins = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(_BINS, np.int32)
    for number in range(first, last):
        best[:] = -4.0
        alive = False
        for row in range(offsets[number] - start, offsets[number + 1] - start):
            if image[row] >= 0:
                alive = True
                for column in range(columns):
                    best[column] = max(best[column], number_of(key_of_bits(tile[row, column])))
        count = 0
        for column in range(columns):
            if others[column] >= 0 and others[column] != number:
                values[count] = best[column]
                count += 1
        if alive:
            floors[list_start + number] = _first_floor(values, count, k, flat, relative, bins)
