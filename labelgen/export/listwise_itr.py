"""Listwise ITR (arXiv 2305.16566): text embeddings in the order of the captions, five an image."""

from __future__ import annotations

from labelgen.export import five_captions
from labelgen.export.base import Options, Written
from labelgen.store.reader import Store


def write(store: Store, options: Options, written: Written) -> None:
    """`{train,dev,test}_caps.txt`, `_text_emb.npy` and `_ids.txt` for every split."""
    embeddings = five_captions.text_teacher(store, options)
    for split, name, images in five_captions.each_split(store, options):
        arranged = five_captions.arrange(store, images, embeddings, options, written, split)
        five_captions.write_split(store, name, arranged, embeddings, written)
