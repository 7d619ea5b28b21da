"""Tar shards in the WebDataset convention: members that share a key are one sample."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from labelgen.corpus.base import CaptionRecord, DatasetInfo, ImageRecord, Records
from labelgen.corpus.files import data_folder, not_this
from labelgen.corpus.ledger import Ledger
from labelgen.corpus.shards.files import FILES, TAR, shards_of
from labelgen.corpus.shards.samples import ShardReader
from labelgen.corpus.shards.tar_members import Damage
from labelgen.corpus.text.encodings import refuse_other_encoding
from labelgen.corpus.text.names import INSIDE
from labelgen.errors import DatasetError, some
from labelgen.registry import unknown

_SPLIT = re.compile(r"(?:^|/)(train|val|test)(?![A-Za-z])")


class WebDataset:
    """Adapter of tar shards.

    Every photograph is an image; its key is the path of the member without the last suffix (`00003.jpg`, and
    `00003.v2.jpg` too). Captions are the members `key.txt`, `key.<number>.txt` and `key.caption.txt`, else the field
    `caption_field` of `key.json` (a text or a list of texts). Where no photograph has a longer name, the part before
    its first dot may serve as its key, as the webdataset library has it: `k.txt` belongs to `k.v2.jpg`.

    - `key.seg.png` beside `key.jpg` is a further picture of the same sample, not an image, unless `key.seg.txt` is
      there or the part between is a number. So is the second of `key.jpg` and `key.png`, and of `k.img.jpg` and
      `k.mask.png` with `k.txt`.
    - Captions without any photograph are an image without a file.
    - All other members are skipped and counted by kind in the ledger.
    - Suffixes count in upper and lower case. A member that occurs twice in a shard refuses the data set.

    Args:
        root: folder of the shards, at any depth, in order of their paths.
        caption_field: field of `key.json` with the captions.
        ids: `key`, or `shard/key` where keys repeat from shard to shard.
        lines: whether every line of a text member is a caption.
        damaged: `refuse`, or `quarantine` to read the whole members before the damage of a shard.
    """

    info = DatasetInfo(
        summary="Tar shards in the WebDataset convention (img2dataset's webdataset output)",
        expects="*.tar (uncompressed, at any depth) with key.jpg (png, webp ...), key.txt (key.0.txt ...) or key.json",
        ids="image: the key, or shard/key with ids='shard/key'; caption: made, <image id>#<n>",
        splits="train, val or test if the shard's path has a part that begins so, else train",
        url="https://github.com/webdataset/webdataset",
    )

    def __init__(
        self,
        root: Path | None,
        *,
        caption_field: str = "caption",
        ids: str = "key",
        lines: bool = False,
        damaged: str = "refuse",
    ) -> None:
        if ids not in ("key", "shard/key"):
            raise unknown("kind of ids", ids, ("key", "shard/key"))
        if damaged not in ("refuse", "quarantine"):
            raise unknown("way with damaged shards", damaged, ("refuse", "quarantine"))
        self.root, self.caption_field, self.ids, self.lines, self.damaged = root, caption_field, ids, lines, damaged

    def read(self) -> Records:
        """All shards.

        Raises:
            DatasetError: the root is missing or holds no shard; a shard is damaged (unless that is quarantined) or
                compressed; a member occurs twice in a shard, or a key in two shards.
        """
        folder = data_folder(self.root, "webdataset", self.info.expects)
        ledger = Ledger()
        shards = shards_of(folder, ledger)
        if not shards:
            raise not_this("webdataset", folder, self.info.expects)
        reader = self.reader(ledger)
        images: list[ImageRecord] = []
        captions: list[CaptionRecord] = []
        for path in shards:
            shard = path.relative_to(folder).as_posix()
            found = reader.read(path, shard)
            _book(ledger, shard, found.damage)
            for sample in found.samples:
                image_id = self.image_id(shard, sample.key)
                file = f"{shard}{INSIDE}{sample.photo}" if sample.photo else None
                images.append(ImageRecord(image_id, _split(shard), file, len(images)))
                for number, caption in enumerate(sample.captions):
                    captions.append(CaptionRecord(f"{image_id}#{number}", image_id, caption.text, len(captions)))
        if self.ids == "key":
            _refuse_repeated(images)
        refuse_other_encoding([caption.text for caption in captions], "the text of the shards")
        return Records(images, captions, folder, ledger=ledger.closed())

    def reader(self, ledger: Ledger) -> ShardReader:
        """Reader of one shard with the options of this data set."""
        return ShardReader(self.caption_field, self.lines, self.damaged == "quarantine", ledger)

    def image_id(self, shard: str, key: str) -> str:
        """Id of an image by the path of its shard below the root and its key."""
        return key if self.ids == "key" else f"{TAR.sub('', shard)}/{key}"


def _book(ledger: Ledger, shard: str, damage: Damage | None) -> None:
    if damage is None:
        ledger.used(FILES)
    else:
        reason = f"damaged at byte {damage.offset:,} and read up to there ({damage.what})"
        ledger.quarantined(FILES, reason, shard)


def _refuse_repeated(images: list[ImageRecord]) -> None:
    counts = Counter(image.image_id for image in images)
    repeated = [image for image in images if counts[image.image_id] > 1]
    if repeated:
        raise DatasetError(
            f"{len({image.image_id for image in repeated})} image ids occur more than once",
            found=some(
                f"{image.image_id} ({(image.file or 'no photograph').partition(INSIDE)[0]})" for image in repeated
            ),
            expected="keys that differ from shard to shard",
            todo="add the name of the shard to the ids with --set dataset.options.ids=shard/key",
        )


def _split(shard: str) -> str:
    match = _SPLIT.search(shard)
    return match[1] if match else "train"
