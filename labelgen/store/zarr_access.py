"""Standard access through zarr-python: the second opinion of `verify`, and whatever users like to do with zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelgen.errors import StoreError
from labelgen.store.disk.files import refuse_links


def open_array(root: Path, path: str) -> Any:
    """The `zarr.Array` at a path inside a store, read-only."""
    import zarr

    return zarr.open_array(root / path, mode="r", zarr_format=3)


def open_node(root: Path, path: str) -> Any:
    """The `zarr.Array` or `zarr.Group` at a path inside a store, read-only; the store itself for an empty path.

    Raises:
        StoreError: nothing there that zarr opens.
        CorruptStoreError: a link, a pipe or a device below it.
    """
    import zarr

    refuse_links(root / path if path else root)
    try:
        return zarr.open(root / path, mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"zarr finds no array or group at {root / path}",
            found=str(error),
            expected="a path as the manifest lists it, such as embeddings/text/text",
        ) from error
