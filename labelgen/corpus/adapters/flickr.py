"""Flickr30k (Young et al. 2014) and Flickr8k (Hodosh et al. 2013): Karpathy's JSON, or tokens with split lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from labelgen.corpus.adapters.karpathy import find_karpathy, karpathy_records
from labelgen.corpus.adapters.tokens import token_records
from labelgen.corpus.base import DatasetInfo, Records
from labelgen.corpus.files import below_photos, book_other, data_folder, find_file, not_this, photo_folder
from labelgen.corpus.ledger import Ledger
from labelgen.registry import unknown


class _Flickr:
    """Reader of both sets."""

    info: DatasetInfo
    name: ClassVar[str]
    #: Kinds of annotations, the preferred one first, and the file of each.
    annotation_files: ClassVar[Mapping[str, str]]
    #: Split -> file beside the token file.
    lists: ClassVar[Mapping[str, str]]
    needs_lists: ClassVar[bool]
    photo_folders: ClassVar[tuple[str, ...]]

    def __init__(self, root: Path | None, *, annotations: str = "auto", photos: str = "") -> None:
        kinds = ("auto", *self.annotation_files)
        if annotations not in kinds:
            raise unknown("kind of annotations", annotations, kinds)
        self.root, self.annotations, self.photos = root, annotations, photos

    def read(self) -> Records:
        """All splits.

        Raises:
            DatasetError: the root or its files are missing or of another format.
        """
        folder = data_folder(self.root, self.name, self.info.expects)
        ledger = Ledger()
        kinds = list(self.annotation_files)
        for kind in kinds if self.annotations == "auto" else [self.annotations]:
            find = find_karpathy if kind == "karpathy" else find_file
            path = find(folder, self.annotation_files[kind], ledger)
            if path is None:
                continue
            lists = {} if kind == "karpathy" else self._lists(path)
            if lists is None:
                break
            if kind == kinds[0]:
                book_other(folder, self.annotation_files[kinds[1]], path, ledger)
            records = karpathy_records(path, ledger) if kind == "karpathy" else token_records(path, lists, ledger)
            images = below_photos(records[0], folder, self.photos)
            photos = photo_folder(folder, self.photos, self.photo_folders, (image.file for image in images))
            return Records(images, records[1], photos, (path, *lists.values()), ledger.closed())
        raise not_this(self.name, folder, self.info.expects)

    def _lists(self, tokens: Path) -> dict[str, Path] | None:
        """The split lists that exist, None where a required one is missing."""
        lists = {split: tokens.with_name(name) for split, name in self.lists.items()}
        found = {split: path for split, path in lists.items() if path.is_file()}
        return None if self.needs_lists and len(found) < len(lists) else found


class Flickr30k(_Flickr):
    """Adapter of Flickr30k.

    Args:
        root: folder of the data set.
        annotations: `karpathy`, `token`, or `auto`: Karpathy's JSON where there is one.
        photos: folder of the photographs, relative to `root`; found by its usual names when empty.
    """

    name = "flickr30k"
    annotation_files: ClassVar = {"karpathy": "dataset_flickr30k.json", "token": "results_20130124.token"}
    lists: ClassVar = {split: f"{split}.txt" for split in ("train", "val", "test")}
    needs_lists = False
    photo_folders = ("flickr30k-images", "flickr30k_images", "images", "Images")
    info = DatasetInfo(
        summary="Flickr30k: 31,014 photographs with five captions each (Karpathy's split)",
        expects="dataset_flickr30k.json (or the only dataset_*.json, as RSICD has), or results_20130124.token (with "
        "lists train.txt, val.txt, test.txt beside it where splits are wanted); photographs in flickr30k-images/ or "
        "images/ (optional)",
        ids="image: stem of the file name; caption: sentid (token file: file#n)",
        splits="train, val, test; unassigned for images of the token file that no list names",
        url="https://shannon.cs.illinois.edu/DenotationGraph/",
    )


class Flickr8k(_Flickr):
    """Adapter of Flickr8k.

    Args:
        root: folder of the data set.
        annotations: `token`, `karpathy`, or `auto`: the token file where there is one.
        photos: folder of the photographs, relative to `root`; found by its usual names when empty.
    """

    name = "flickr8k"
    annotation_files: ClassVar = {"token": "Flickr8k.token.txt", "karpathy": "dataset_flickr8k.json"}
    lists: ClassVar = {
        "train": "Flickr_8k.trainImages.txt",
        "val": "Flickr_8k.devImages.txt",
        "test": "Flickr_8k.testImages.txt",
    }
    needs_lists = True
    photo_folders = ("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")
    info = DatasetInfo(
        summary="Flickr8k: 8,092 photographs with five captions each",
        expects=f"Flickr8k.token.txt with {', '.join(lists.values())}, or dataset_flickr8k.json; photographs in "
        "images/ or Flicker8k_Dataset/ (optional)",
        ids="image: stem of the file name; caption: file#n (Karpathy: sentid)",
        splits="train, val (the dev list), test, unassigned (92 images that no list names)",
        url="https://doi.org/10.1613/jair.3994",
    )
