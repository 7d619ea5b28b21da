"""Standard access through zarr-python: the second opinion of `verify`, and whatever users like to do with zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelgen.errors import StoreError


def open_array(root: Path, path: str) -> Any:
    """The `zarr.Array` at a path inside a store, read-only."""
    import zarr

    return zarr.open_array(root / path, mode="r")


def open_node(root: Path, path: str) -> Any:
    """The `zarr.Array` or `zarr.Group` at a path inside a store, read-only; the store itself for an empty path.

    Raises:
        StoreError: nothing there that zarr opens.
    """
    import zarr

    try:
        return zarr.open(root / path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"zarr finds no array or group at {root / path}",
            found=str(error),
            expected="a path as the manifest lists it, such as embeddings/text/text",
        ) from error
