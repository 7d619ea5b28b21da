"""The demo set that ships with labelgen."""

from __future__ import annotations

from pathlib import Path

from labelgen import resources
from labelgen.corpus.adapters.table import Table
from labelgen.corpus.base import DatasetInfo, Records


class Demo:
    """Adapter of the demo set: 76 photographs of COCO 2017 with their 380 captions.

    Args:
        root: a folder of the same form, for example a copy; the packaged one when None.
    """

    info = DatasetInfo(
        summary="76 photographs with 380 captions that come with labelgen (from COCO 2017)",
        expects="nothing: it is inside the package",
        ids="image: COCO's image_id; caption: COCO's annotation id",
        splits="train (26 images), val (50), as in COCO 2017",
        url="https://cocodataset.org",
    )

    def __init__(self, root: Path | None = None) -> None:
        self.root = resources.demo_root() if root is None else root

    def read(self) -> Records:
        """Both splits.

        Raises:
            DatasetError: the folder is not there or was changed.
        """
        return Table(self.root, file="captions.csv", photos="images").read()
