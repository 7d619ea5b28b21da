"""ECCV Caption (Chun et al. 2022, arXiv 2204.03359): all right answers of 1,332 images and 1,261 captions of COCO.

JSON, query id -> list of the ids of all right answers, including annotated partners if they are right:
`eccv_image_to_caption.json` and `eccv_caption_to_image.json`. CxC's and COCO's own files of the same folder
(`cxc_*`, `original_*`) have the same form.
"""

from __future__ import annotations

import json
from typing import Any

from labelgen.audit.judgements.judgements import Judgements, Kind, Sample, graded_frame
from labelgen.errors import DatasetError
from labelgen.types import Relation

_DIRECTIONS: dict[str, tuple[Relation, tuple[Kind, Kind]]] = {
    "image_to_caption": (Relation.I2T, ("image", "caption")),
    "caption_to_image": (Relation.T2I, ("caption", "image")),
}


class Eccv:
    """One direction of ECCV Caption, given by the name of the file."""

    expects = "ECCV Caption: *image_to_caption.json or *caption_to_image.json, {query id: [ids]}"

    def sniff(self, sample: Sample) -> bool:
        return sample.head.lstrip()[:1] == b"{" and _direction(sample) is not None

    def read(self, sample: Sample) -> Judgements:
        """Read the file.

        Raises:
            DatasetError: another form, or a name without a direction.
        """
        found = _direction(sample)
        if found is None:
            raise DatasetError(
                f"the name {sample.path.name} gives no direction",
                expected="a name with image_to_caption or caption_to_image",
                todo="keep the names of the original files",
            )
        relation, kinds = found
        pairs = [(query, item) for query, items in _document(sample).items() for item in items]
        return Judgements(
            name=sample.path.stem,
            source="right answers by query",
            relation=relation,
            kinds=kinds,
            form="positives",
            frame=graded_frame([left for left, _ in pairs], [str(right) for _, right in pairs], [1.0] * len(pairs)),
            positive_from=1.0,
            scale="1: right",
        )


def _direction(sample: Sample) -> tuple[Relation, tuple[Kind, Kind]] | None:
    return next((value for word, value in _DIRECTIONS.items() if word in sample.path.name), None)


def _document(sample: Sample) -> dict[str, list[Any]]:
    try:
        document = json.loads(sample.path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{sample.path.name} is not JSON", found=str(error)) from error
    whole = isinstance(document, dict) and all(
        isinstance(items, list) and all(isinstance(item, (int, str)) and not isinstance(item, bool) for item in items)
        for items in document.values()
    )
    if not whole:
        raise DatasetError(f"{sample.path.name} is not a file of ECCV Caption", expected=Eccv.expects)
    answers: dict[str, list[Any]] = document
    return answers
