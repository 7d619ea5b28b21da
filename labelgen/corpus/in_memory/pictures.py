"""Photographs of data in memory: paths as they are; bytes, PIL images and arrays saved as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelgen.errors import DatasetError, shown
from labelgen.fingerprint import digest, digest_many
from labelgen.store.disk.atomic import write_atomic

#: Modes that PNG holds; others are converted to RGB.
_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})
#: First bytes of a file -> its suffix. Other bytes are saved, too: reading them says what is wrong.
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"GIF8": ".gif", b"II*\0": ".tif"}


@dataclass
class Pictures:
    """A folder of saved pictures.

    Attributes:
        folder: made when the first one is saved. Files are named by their content, so equal ones are saved once.
        new: files that were saved now.
    """

    folder: Path
    new: list[Path] = field(default_factory=list)

    def place(self, value: Any, where: str) -> tuple[str, str]:
        """The path of a picture, and a name for the image where its row gives none; empty for None.

        Bytes are saved as they are, PIL images and uint8 arrays [h, w] or [h, w, 3] as PNG, without loss.

        Raises:
            DatasetError: not a picture.
            DiskError: the disk is full or read-only.
        """
        if isinstance(value, Mapping) and ("bytes" in value or "path" in value):  # of Hugging Face
            data, path = value.get("bytes"), value.get("path") or ""
            if data is None:
                return self.place(path or None, where)
            saved = self.place(data, where)[0]
            return saved, str(path) or Path(saved).stem
        if value is None or (isinstance(value, str) and not value):
            return "", ""
        if isinstance(value, str | os.PathLike):
            return _path(os.fspath(value), where)
        if isinstance(value, bytes | bytearray | memoryview):
            raw = bytes(value)
            return self._saved(
                digest(raw), next((s for start, s in _SUFFIXES.items() if raw.startswith(start)), ""), raw
            )
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3):
            value = Image.fromarray(value)
        if isinstance(value, Image.Image):
            return self._png(value, where)
        raise DatasetError(
            f"{where} has a picture of an unknown kind",
            found=shown(value),
            expected="a path, bytes, a PIL image or a uint8 array [h, w, 3]",
        )

    def _png(self, image: Image.Image, where: str) -> tuple[str, str]:
        try:
            pixels = image if image.mode in _PNG_MODES else image.convert("RGB")
            # Named by pixels: the bytes of a PNG depend on the release of the compressor.
            exif = image.getexif().tobytes() if image.getexif() else b""
            palette = bytes(pixels.getpalette() or b"") if pixels.mode == "P" else b""
            name = digest_many([pixels.mode.encode(), str(pixels.size).encode(), pixels.tobytes(), palette, exif])
            if (self.folder / f"{name}.png").is_file():
                return str(self.folder / f"{name}.png"), name
            stream = BytesIO()
            pixels.save(stream, "PNG", **({"exif": exif} if exif else {}))
        except Exception as error:  # pixels are read late, and damaged files raise anything
            raise DatasetError(f"the picture of {where} cannot be read", found=shown(str(error))) from error
        return self._saved(name, ".png", stream.getvalue())

    def _saved(self, name: str, suffix: str, data: bytes) -> tuple[str, str]:
        path = self.folder / f"{name}{suffix}"
        if not path.is_file():
            write_atomic(path, data)
            self.new.append(path)
        return str(path), name


def _path(text: str, where: str) -> tuple[str, str]:
    if "://" in text:
        raise DatasetError(
            f"the picture of {where} is an address",
            found=shown(text),
            expected="a file",
            todo="download the photographs first: labelgen fetches nothing that data names",
        )
    return text, text
