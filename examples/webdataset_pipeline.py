"""A webdataset pipeline with soft labels: tar shards in, batches with labels out.

    python examples/webdataset_pipeline.py stores/demo --shards shards

Writes shards of the demo set's photographs first, where --shards is not there yet: a sample has `jpg`, `txt` and
`json` with both ids. Any way of carrying ids will do: the pipeline is told where they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import webdataset

import labelgen
from corpus import texts_of, usable
from labelgen.loader import soft_label_stage
from labelgen.resources import demo_root
from labelgen.store.reader import Store

SAMPLES = 64


def write_shards(store: Store, photos: Path, folder: Path) -> None:
    """One sample a caption, `SAMPLES` to a shard."""
    folder.mkdir(parents=True)
    _, captions = usable(store, "train")
    owner = store.image_of(captions)
    files, texts = store.images["file"].gather(owner.tolist()), texts_of(store, captions)
    ids = zip(store.image_ids(owner), store.caption_ids(captions), strict=True)
    with webdataset.ShardWriter(f"{folder}/%04d.tar", maxcount=SAMPLES, verbose=0) as shards:
        for number, (file, text, (image, caption)) in enumerate(zip(files, texts, ids, strict=True)):
            shards.write(
                {
                    "__key__": f"{number:06d}",
                    "jpg": (photos / file).read_bytes(),
                    "txt": text,
                    "json": {"image_id": image, "caption_id": caption},
                }
            )


def pipeline(store: Store, shards: list[str], batch: int, scheme: str) -> Any:
    """Batches of (photographs, texts, ids, soft labels as tensors)."""
    stage = soft_label_stage(store, ids("image_id"), ids("caption_id"), scheme=scheme)
    return (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(1000, seed=0)
        .decode("torchrgb8")
        .to_tuple("jpg", "txt", "json")
        .batched(batch, collation_fn=columns, partial=False)
        .compose(stage)
    )


def columns(samples: list[tuple[Any, ...]]) -> tuple[list[Any], ...]:
    """Lists of what the samples hold: photographs of several sizes do not stack."""
    return tuple(map(list, zip(*samples, strict=True)))


class ids:  # noqa: N801 - used as a function, a class because workers may pickle it
    """Ids of a batch, from the JSON of its samples."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, batch: tuple[Any, ...]) -> list[str]:
        return [about[self.name] for about in batch[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a sealed store with a text teacher")
    parser.add_argument("--shards", type=Path, default=Path("shards"), help="folder of tar files")
    parser.add_argument("--photos", type=Path, help="folder of the photographs (that of the demo set)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--scheme", default="bcls()")
    options = parser.parse_args()

    store = labelgen.open(options.store)
    if not options.shards.exists():
        write_shards(store, options.photos or demo_root() / "images", options.shards)
    shards = sorted(map(str, options.shards.glob("*.tar")))
    for photos, texts, _, soft in pipeline(store, shards, options.batch, options.scheme):
        others = soft.relevance[~soft.same_image]
        best = others.argmax()
        print(f"{len(photos)} photographs, {len(texts)} texts: {soft.same_image.sum()} positives, ", end="")
        print(f"relevance of the other pairs {others.mean():.3f} on average, {others[best]:.3f} at most")


if __name__ == "__main__":
    main()
