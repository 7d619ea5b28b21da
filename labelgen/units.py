"""Numbers as people read them."""

from __future__ import annotations


def count(number: int) -> str:
    """`31,014`."""
    return f"{number:,}"


def size(number: int) -> str:
    """`1.2 GB`: decimal units, as disks and `--memory` have them."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `48 s`, `3:20 min`, `2:05 h`; `?` where nobody knows."""
    if seconds is None or seconds < 0:
        return "?"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def rate(rows_per_second: float) -> str:
    """`412/s`, `0.8/s`; nothing while unknown."""
    if rows_per_second <= 0:
        return ""
    return f"{rows_per_second:,.0f}/s" if rows_per_second >= 9.95 else f"{rows_per_second:.1f}/s"
