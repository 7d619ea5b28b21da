"""Compiled loops of the tiled engine: compare a tile with the floors, and keep the lists.

Similarities of a tile are compared as integers (`bits`), 64 at a time. All functions use the calling thread only and
release the interpreter lock.

One list serves two ranks (`lists`): the `rows_rank` best candidates, and the `images_rank` best images of candidates,
where an image has the score of its best candidate. A rank of 0 is not requested.
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

#: Bisection steps over the entries of a list; enough for a floor close to the highest valid one.
_BISECTIONS = 12
_ONE = np.uint64(1)
_LOWER = np.uint64(0xFFFFFFFF)


# ---------------------------------------------------------------------------------------------------------- the scan


@compiled
def scan(
    tile: Any, first: Any, row_floor: Any, column_floor: Any, row_image: Any,
    column_image: Any, hits: Any, keys: Any,
) -> Any:  # fmt: skip
    """Write entries above the floor of their row or column to `hits`, from row `first` on, until `hits` may be full.

    Args:
        tile: bits of computed similarities, [m, n].
        row_floor, column_floor: in the type of the tile, [m] and [n].
        row_image, column_image: image of each row and column, -1 for dead ones; pairs of one image are skipped.
        hits: (row, column) int32 [capacity >= n, 2]; keys: int32 [capacity].

    Returns:
        (number of hits, first row that was not scanned).
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
    """Lower bound of the rank-th largest of the first `count` entries, close to it.

    By bisection: counting is a vector loop, and a dozen of them are faster than one selection.
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
def _best_of_runs(line: Any, count: Any, group: Any, best: Any) -> Any:
    """Write the best entry of each image to `best`; return the number of images.

    The rows of an image are adjacent, and so are its entries, because entries are appended in row order. If two threads
    interleave their entries in a list, an image counts twice and the floor may be too high; the final proof detects it.
    """
    images, last, most = 0, np.int32(-1), np.uint64(0)
    for place in range(count):  # branch-free: where an image ends is unpredictable
        own = group[np.int64(line[place] & _LOWER), 0]
        most = max(most if own == last else np.uint64(0), line[place])
        images += own != last
        best[images - 1] = most
        last = own
    return images


@compiled
def _needed(line: Any, count: Any, row_floor: Any, flat: Any, relative: Any, group: Any, best: Any) -> Any:
    """Drop entries neither above the floor of rows nor possibly the best of an image; return how many remain."""
    kept, images, last = 0, 0, np.int32(-1)
    for place in range(count):
        entry = line[place]
        own = group[np.int64(entry & _LOWER), 0]
        images += own != last
        last = own
        most = best[images - 1]
        line[kept] = entry
        kept += (
            entry == most
            or _key_of_entry(entry) > row_floor
            or group[np.int64(entry & _LOWER), 1] != group[np.int64(most & _LOWER), 1]
            or _key_of_entry(entry) > _floor_below(most, flat, relative)
        )
    return kept


@compiled
def tighten(row: Any, last: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any, limits: Any,
            floors: Any, row_floors: Any, entries: Any, group: Any, best: Any) -> None:  # fmt: skip
    """Raise the floors of one list as far as its entries allow, and drop the entries below.

    Args:
        row: the list.
        last: also drop entries that no rank can need; slower, so otherwise done only when the list is nearly full.
        counts, limits, floors, row_floors, entries: of all lists, see `lists.Lists`.
        group: first image of each candidate, and what those of the same images have in common.
        best: scratch, uint64, as long as a list.
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
        images = _best_of_runs(line, count, group, best)
        if last or 8 * count > 7 * len(line):
            count = _needed(line, count, row_floor, flat, relative, group, best)
        reached = EVERYTHING
        if images >= images_rank:
            reached = _floor_below(_lower_bound(best, images, images_rank), flat, relative)
        floor = min(floor, reached)
    floor = max(floor, floors[row])
    floors[row] = floor
    least = _entry(floor, 0xFFFFFFFF)
    kept = 0
    for place in range(count):  # branch-free: which entries stay is unpredictable
        entry = line[place]
        line[kept] = entry
        kept += entry > least
    counts[row] = kept
    limits[row] = min(len(line), max(kept, rows_rank, images_rank) + 16 + (max(rows_rank, images_rank) >> 1))


@compiled
def tighten_all(low: Any, high: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any,
                limits: Any, floors: Any, row_floors: Any, entries: Any, group: Any, best: Any,
                ) -> None:  # fmt: skip
    """Run the last `tighten` of the lists [low, high)."""
    for row in range(low, high):
        tighten(row, True, rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors, entries, group,
                best)  # fmt: skip


@compiled
def _made_room(row: Any, key: Any, rows_rank: Any, images_rank: Any, flat: Any, relative: Any, counts: Any,
               limits: Any, floors: Any, row_floors: Any, entries: Any, group: Any, best: Any,
               ) -> Any:  # fmt: skip
    """Raise the floor of a list that has reached its limit; return whether `key` is still above it.

    The limit is low on purpose: a loose floor admits entries that cost more than tightening it early.
    """
    tighten(row, False, rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors, entries, group,
            best)  # fmt: skip
    if counts[row] == entries.shape[1]:
        counts[row], floors[row] = -1, NOTHING  # failed: more near ties than it can hold, so it is searched again
    return key > floors[row]


@compiled
def offer(hits: Any, hit_keys: Any, count: Any, side: Any, list_start: Any, unit_start: Any, rows_rank: Any,
          images_rank: Any, flat: Any, relative: Any, counts: Any, limits: Any, floors: Any, row_floors: Any,
          entries: Any, group: Any, best: Any) -> None:  # fmt: skip
    """Append hits to the lists of one side of a tile.

    Args:
        side: 0 if the lists are those of the rows of the tile, 1 for its columns.
        list_start, unit_start: list of the first position on that side, candidate of the first on the other.
    """
    for hit in range(count):
        row = list_start + hits[hit, side]
        if hit_keys[hit] > floors[row]:
            if counts[row] == limits[row] and not _made_room(
                row, hit_keys[hit], rows_rank, images_rank, flat, relative, counts, limits, floors, row_floors,
                entries, group, best,
            ):  # fmt: skip
                continue
            # The common path is inlined: a call with all these arrays costs as much as ten comparisons.
            entries[row, counts[row]] = _entry(hit_keys[hit], unit_start + hits[hit, 1 - side])
            counts[row] += 1


@compiled
def listed(low: Any, high: Any, counts: Any, entries: Any, owner: Any, units: Any, keys: Any) -> None:
    """Write the entries of the lists [low, high), list by list: list (counted from low), candidate and key."""
    place = 0
    for row in range(low, high):
        for entry in entries[row, : max(0, counts[row])]:
            owner[place], units[place], keys[place] = row - low, entry & _LOWER, _key_of_entry(entry)
            place += 1


# -------------------------------------------------------------------------------------------------- first thresholds


@compiled
def _ranked(keys: Any, rank: Any, probe: Any) -> Any:
    """Return the rank-th largest key, or the lowest if there are fewer; the number of keys is a multiple of CHUNK."""
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
def seed(tile: Any, image: Any, others: Any, group: Any, list_start: Any, rows_rank: Any, images_rank: Any, flat: Any,
         relative: Any, floors: Any) -> None:  # fmt: skip
    """Set the first floors of lists from one tile.

    The best of an image is the maximum of its first eight rows, computed in three doubling steps. It can only be lower
    than the true best, so the floor stays valid.

    Args:
        tile: [lists, candidates].
        image, others: what keeps pairs of one image apart, on the two axes, -1 for dead rows.
        group: first image of each candidate.
        list_start: list of the first row of the tile.
    """
    rows, columns = tile.shape
    width = columns + (-columns) % CHUNK
    keys, probe = np.empty(width, tile.dtype), np.empty(1, tile.dtype)
    probe[0] = -(np.int64(1) << (8 * probe.itemsize - 1))
    least = probe[0]
    same, begins, last = np.zeros((3, width), np.bool_), np.zeros(width, np.bool_), -1
    for column in range(columns):
        if others[column] >= 0:
            begins[column] = group[column] != last
            last = group[column]
        for step in range(3):
            later = column + (1 << step)
            same[step, column] = later < columns and group[later] == group[column]
    for row in range(rows):
        own, floor = image[row], NOTHING
        if own < 0:
            continue
        keys[columns:] = least
        for column in range(columns):
            other = others[column]
            keys[column] = turned(tile[row, column]) if (other >= 0) & (other != own) else least
        if rows_rank > images_rank:  # otherwise the floor for images is the lower one
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
