"""Compiled loops of the tiled engine: what looks at every similarity, and the lists that take what matters.

Similarities of a tile are compared as integers (`bits`), 64 at a time. All functions use the calling thread alone
and release the interpreter's lock.

A list serves two ranks at once (`lists`): the `rows_rank` best candidates, and the `images_rank` best images of
candidates, of which each counts by its best candidate. A rank of 0 is not requested.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from labelgen.similarity.tiled.bits import (
    CHUNK,
    EVERYTHING,
    NOTHING,
    above,
    compiled,
    count_above,
    floor_key,
    key_of_bits,
    lowest,
    number_of,
    turned,
)

#: Halvings of the range of a list's entries, for a floor near the best possible one.
_BISECTIONS = 12
_ONE = np.uint64(1)
_LOWER = np.uint64(0xFFFFFFFF)


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
    whole = columns - columns % CHUNK
    count = 0
    for row in range(first, rows):
        if count + columns > len(keys):
            return count, row
        image, floor = row_image[row], row_floor[row]
        if image < 0:
            continue
        for start in range(0, whole, CHUNK):
            found = above(tile, row, start, floor, column_floor)
            while found:
                column = start + lowest(found)
                found &= found - _ONE
                other = column_image[column]
                hits[count, 0], hits[count, 1] = row, column
                keys[count] = key_of_bits(tile[row, column])
                count += other >= 0 and other != image
        for column in range(whole, columns):
            key = turned(tile[row, column])
            if key > floor or key > column_floor[column]:
                other = column_image[column]
                hits[count, 0], hits[count, 1] = row, column
                keys[count] = key_of_bits(tile[row, column])
                count += other >= 0 and other != image
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
        middle = low + ((high - low) >> _ONE)
        reached = 0
        for place in range(count):
            reached += entries[place] >= middle
        if reached >= rank:
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
def _floor_below(entry: Any, flat: Any, relative: Any) -> Any:
    return floor_key(number_of(_key_of_entry(entry)), flat, relative)


@compiled
def _best_of_runs(line: Any, count: Any, start: Any, group: Any, best: Any) -> Any:
    """Best entry of every image; gives their number.

    Entries of one image are neighbours, since its rows are, and lists take them in their order. Where threads that met
    in one list have parted them the image counts twice and a floor may be too high: the final proof notices.
    """
    images, last, most = 0, np.int32(-1), np.uint64(0)
    for place in range(count):  # without a branch: where an image ends cannot be predicted
        own = group[np.int64(line[place] & _LOWER) - start]
        most = max(most if own == last else np.uint64(0), line[place])
        images += own != last
        best[images - 1] = most
        last = own
    return images


@compiled
def _needed(line: Any, count: Any, row_floor: Any, flat: Any, relative: Any, start: Any, group: Any, best: Any) -> Any:
    """Drop entries that are neither above the floor of rows nor may be the best of their image; gives how many stay."""
    kept, images, last = 0, 0, np.int32(-1)
    for place in range(count):
        entry = line[place]
        own = group[np.int64(entry & _LOWER) - start]
        images += own != last
        last = own
        most = best[images - 1]
        line[kept] = entry
        kept += (
            entry == most
            or _key_of_entry(entry) > row_floor
            or _key_of_entry(entry) > _floor_below(most, flat, relative)
        )
    return kept


@compiled
def tighten(row: Any, last: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any, limits: Any,
            floors: Any, row_floors: Any, entries: Any, start: Any, group: Any, best: Any) -> None:  # fmt: skip
    """Raise the floors of one list to what its entries allow, and drop what is below.

    Args:
        row: the list.
        last: drop too what neither rank can need, which takes longer; else only when places are short.
        counts, limits, floors, row_floors, entries: of all lists, see `lists.Lists`.
        start, group: the image (counted from the first) of candidate `start`, and of those after it.
        best: scratch for every place, uint64.
    """
    count, line = counts[row], entries[row]
    if count < 0:
        return
    row_floor = floor = NOTHING
    if rows_rank:
        if count >= rows_rank:
            reached = _floor_below(_lower_bound(line, count, rows_rank), flat, relative)
            row_floors[row] = max(row_floors[row], reached)
        row_floor = floor = row_floors[row]
    if images_rank:
        images = _best_of_runs(line, count, start, group, best)
        if last or 8 * count > 7 * len(line):
            count = _needed(line, count, row_floor, flat, relative, start, group, best)
        reached = EVERYTHING
        if images >= images_rank:
            reached = _floor_below(_lower_bound(best, images, images_rank), flat, relative)
        floor = min(floor, reached)
    floor = max(floor, floors[row])
    floors[row] = floor
    least = _entry(floor, 0xFFFFFFFF)
    kept = 0
    for place in range(count):  # without a branch: which ones stay cannot be predicted
        entry = line[place]
        line[kept] = entry
        kept += entry > least
    counts[row] = kept
    limits[row] = min(len(line), max(kept, rows_rank, images_rank) + 16 + (max(rows_rank, images_rank) >> 1))


@compiled
def tighten_all(low: Any, high: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any,
                limits: Any, floors: Any, row_floors: Any, entries: Any, start: Any, group: Any, best: Any,
                ) -> None:  # fmt: skip
    """`tighten` for the lists [low, high), for the last time."""
    for row in range(low, high):
        tighten(row, True, rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors, entries, start,
                group, best)  # fmt: skip


@compiled
def _made_room(row: Any, key: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any,
               limits: Any, floors: Any, row_floors: Any, entries: Any, start: Any, group: Any, best: Any,
               ) -> Any:  # fmt: skip
    """Raise the floor of a list that has reached its limit; whether `key` is still above it.

    Soon and often: a floor that is too low costs more places than finding a better one.
    """
    tighten(row, False, rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors, entries, start,
            group, best)  # fmt: skip
    if counts[row] == entries.shape[1]:
        counts[row], floors[row] = -1, NOTHING  # more near ties than a list can hold: searched again otherwise
    return key > floors[row]


@compiled
def offer(hits: Any, hit_keys: Any, count: Any, side: Any, list_start: Any, unit_start: Any, rows_rank: Any,
          images_rank: Any, flat: Any, relative: Any, counts: Any, limits: Any, floors: Any, row_floors: Any,
          entries: Any, start: Any, group: Any, best: Any) -> None:  # fmt: skip
    """Take hits into lists. `side`: 0 where lists are the tile's rows, 1 its columns.

    `list_start`, `unit_start`: list and candidate of the first row and column (or column and row) of the tile.
    """
    for hit in range(count):
        row = list_start + hits[hit, side]
        if hit_keys[hit] > floors[row]:
            if counts[row] == limits[row] and not _made_room(
                row, hit_keys[hit], rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors,
                entries, start, group, best,
            ):  # fmt: skip
                continue
            # Only this much is inlined: a call with all these arrays costs as much as ten comparisons.
            entries[row, counts[row]] = _entry(hit_keys[hit], unit_start + hits[hit, 1 - side])
            counts[row] += 1


@compiled
def listed(low: Any, high: Any, counts: Any, entries: Any, owner: Any, units: Any, keys: Any) -> None:
    """Entries of the lists [low, high): list (counted from low), candidate and key of every entry, list after list."""
    place = 0
    for row in range(low, high):
        for entry in entries[row, : max(0, counts[row])]:
            owner[place], units[place], keys[place] = row - low, entry & _LOWER, _key_of_entry(entry)
            place += 1


# -------------------------------------------------------------------------------------------------- first thresholds


@compiled
def _ranked(keys: Any, rank: Any, probe: Any) -> Any:
    """The rank-th largest of keys in a tile's type, of a length that CHUNK divides; the lowest if there are fewer."""
    high = (np.int64(1) << (8 * probe.itemsize - 1)) - 1
    low = -high - 1
    while low < high:
        middle = (low + high) >> 1
        probe[0] = middle
        reached = 0
        for start in range(0, len(keys), CHUNK):
            reached += count_above(keys, start, probe[0])
        if reached >= rank:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _first_floor(keys: Any, rank: Any, least: Any, flat: Any, relative: Any, probe: Any) -> Any:
    probe[0] = _ranked(keys, rank, probe)
    if probe[0] == least:
        return EVERYTHING
    return floor_key(number_of(key_of_bits(turned(probe[0]))), flat, relative)


@compiled
def seed(tile: Any, image: Any, others: Any, list_start: Any, rows_rank: Any, images_rank: Any, flat: Any,
         relative: Any, floors: Any) -> None:  # fmt: skip
    """First floors of lists from one tile.

    The best of an image is taken over its first eight rows, by three steps of doubling: no more than it is, and a floor
    that is low enough.

    Args:
        tile: [lists, candidates]; image, others: image of every row on the two axes, -1 for dead rows.
        list_start: list of position 0.
    """
    rows, columns = tile.shape
    width = columns + (-columns) % CHUNK
    keys, probe = np.empty(width, tile.dtype), np.empty(1, tile.dtype)
    probe[0] = -(np.int64(1) << (8 * probe.itemsize - 1))
    least = probe[0]
    same, begins, last = np.zeros((3, width), np.bool_), np.zeros(width, np.bool_), -1
    for column in range(columns):
        if others[column] >= 0:
            begins[column] = others[column] != last
            last = others[column]
        for step in range(3):
            later = column + (1 << step)
            same[step, column] = later < columns and others[later] == others[column]
    for row in range(rows):
        own, floor = image[row], NOTHING
        if own < 0:
            continue
        keys[columns:] = least
        for column in range(columns):
            other = others[column]
            keys[column] = turned(tile[row, column]) if (other >= 0) & (other != own) else least
        if rows_rank > images_rank:  # otherwise the floor of images is the lower one
            floor = _first_floor(keys, rows_rank, least, flat, relative, probe)
        if images_rank:
            for step in range(3):
                for column in range(width - (1 << step)):
                    later = keys[column + (1 << step)] if same[step, column] else least
                    keys[column] = max(keys[column], later)
            for column in range(width):
                keys[column] = keys[column] if begins[column] else least
            floor = min(floor, _first_floor(keys, images_rank, least, flat, relative, probe))
        floors[list_start + row] = floor
