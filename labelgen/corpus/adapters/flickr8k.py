"""Flickr8k (Hodosh et al. 2013): token file and split lists, or Karpathy's JSON."""

from __future__ import annotations

from pathlib import Path

from labelgen.corpus.adapters.karpathy import find_karpathy, karpathy_records
from labelgen.corpus.adapters.tokens import token_records
from labelgen.corpus.base import DatasetInfo, Records
from labelgen.corpus.files import below_photos, book_other, data_folder, find_file, not_this, photo_folder
from labelgen.corpus.ledger import Ledger
from labelgen.registry import unknown

_TOKENS = "Flickr8k.token.txt"
_KARPATHY = "dataset_flickr8k.json"
_LISTS = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
_PHOTOS = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")


class Flickr8k:
    """Adapter of Flickr8k.

    Args:
        root: folder of the data set.
        annotations: `token`, `karpathy`, or `auto`: the token file where there is one.
        photos: folder of the photographs, relative to `root`; found by its usual names when empty.
    """

    info = DatasetInfo(
        summary="Flickr8k: 8,092 photographs with five captions each",
        expects=f"{_TOKENS} with {', '.join(_LISTS.values())}, or {_KARPATHY}; photographs in images/ or "
        "Flicker8k_Dataset/ (optional)",
        ids="image: stem of the file name; caption: file#n (Karpathy: sentid)",
        splits="train, val (the dev list), test, unassigned (92 images that no list names)",
        url="https://doi.org/10.1613/jair.3994",
    )

    def __init__(self, root: Path | None, *, annotations: str = "auto", photos: str = "") -> None:
        if annotations not in ("auto", "token", "karpathy"):
            raise unknown("kind of annotations", annotations, ("auto", "token", "karpathy"))
        self.root, self.annotations, self.photos = root, annotations, photos

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root or its files are missing or of another format.
        """
        folder = data_folder(self.root, "flickr8k", self.info.expects)
        ledger = Ledger()
        tokens = find_file(folder, _TOKENS, ledger) if self.annotations != "karpathy" else None
        karpathy = find_karpathy(folder, _KARPATHY, ledger) if tokens is None else None
        sources: tuple[Path, ...]
        if tokens is not None:
            lists = {split: tokens.with_name(name) for split, name in _LISTS.items()}
            if not all(path.is_file() for path in lists.values()):
                raise not_this("flickr8k", folder, self.info.expects)
            book_other(folder, _KARPATHY, tokens, ledger)
            images, captions = token_records(tokens, lists, ledger)
            sources = (tokens, *lists.values())
        elif karpathy is not None and self.annotations != "token":
            images, captions = karpathy_records(karpathy, ledger)
            sources = (karpathy,)
        else:
            raise not_this("flickr8k", folder, self.info.expects)
        images = below_photos(images, folder, self.photos)
        photos = photo_folder(folder, self.photos, _PHOTOS, (image.file for image in images))
        return Records(images, captions, photos, sources, ledger.closed())
