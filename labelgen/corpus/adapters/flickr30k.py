"""Flickr30k (Young et al. 2014): Karpathy's JSON, or the token file with lists of the splits."""

from __future__ import annotations

from pathlib import Path

from labelgen.corpus.adapters.karpathy import find_karpathy, karpathy_records
from labelgen.corpus.adapters.tokens import token_records
from labelgen.corpus.base import DatasetInfo, Records
from labelgen.corpus.files import below_photos, book_other, data_folder, find_file, not_this, photo_folder
from labelgen.corpus.ledger import Ledger
from labelgen.registry import unknown

_KARPATHY = "dataset_flickr30k.json"
_TOKENS = "results_20130124.token"
_PHOTOS = ("flickr30k-images", "flickr30k_images", "images", "Images")


class Flickr30k:
    """Adapter of Flickr30k.

    Args:
        root: folder of the data set.
        annotations: `karpathy`, `token`, or `auto`: Karpathy's JSON where there is one.
        photos: folder of the photographs, relative to `root`; found by its usual names when empty.
    """

    info = DatasetInfo(
        summary="Flickr30k: 31,014 photographs with five captions each (Karpathy's split)",
        expects=f"{_KARPATHY} (or the only dataset_*.json, as RSICD has), or {_TOKENS} (with lists train.txt, "
        "val.txt, test.txt beside it where splits are wanted); photographs in flickr30k-images/ or images/ (optional)",
        ids="image: stem of the file name; caption: sentid (token file: file#n)",
        splits="train, val, test; unassigned for images of the token file that no list names",
        url="https://shannon.cs.illinois.edu/DenotationGraph/",
    )

    def __init__(self, root: Path | None, *, annotations: str = "auto", photos: str = "") -> None:
        if annotations not in ("auto", "karpathy", "token"):
            raise unknown("kind of annotations", annotations, ("auto", "karpathy", "token"))
        self.root, self.annotations, self.photos = root, annotations, photos

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root or its files are missing or of another format.
        """
        folder = data_folder(self.root, "flickr30k", self.info.expects)
        ledger = Ledger()
        karpathy = find_karpathy(folder, _KARPATHY, ledger) if self.annotations != "token" else None
        tokens = find_file(folder, _TOKENS, ledger) if karpathy is None else None
        sources: tuple[Path, ...]
        if karpathy is not None:
            book_other(folder, _TOKENS, karpathy, ledger)
            images, captions = karpathy_records(karpathy, ledger)
            sources = (karpathy,)
        elif tokens is not None and self.annotations != "karpathy":
            lists = {split: tokens.with_name(f"{split}.txt") for split in ("train", "val", "test")}
            lists = {split: path for split, path in lists.items() if path.is_file()}
            images, captions = token_records(tokens, lists, ledger)
            sources = (tokens, *lists.values())
        else:
            raise not_this("flickr30k", folder, self.info.expects)
        images = below_photos(images, folder, self.photos)
        photos = photo_folder(folder, self.photos, _PHOTOS, (image.file for image in images))
        return Records(images, captions, photos, sources, ledger.closed())
