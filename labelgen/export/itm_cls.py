"""ITM_CLS, the released code of BCLS's author: what Listwise ITR reads, and one row of the image teacher an image."""

from __future__ import annotations

import numpy as np

from labelgen.export import five_captions
from labelgen.export.base import Options, Written, alive, rows_of_teacher
from labelgen.store.reader import Store


def write(store: Store, options: Options, written: Written) -> None:
    """`{train,dev,test}_caps.txt`, `_text_emb.npy`, `_image_emb.npy` and `_ids.txt` for every split.

    Its loss multiplies rows without normalising them, so they are of unit length; images without a row are left out.
    """
    texts = five_captions.text_teacher(store, options)
    _, photos = rows_of_teacher(store, "image", options.image)
    for split, name, images in five_captions.each_split(store, options):
        keep = alive(photos, np.asarray(images))
        arranged = five_captions.arrange(store, images, texts, options, written, split, keep)
        five_captions.write_split(store, name, arranged, texts, written)
        five_captions.write_rows(f"{name}_image_emb.npy", photos, arranged.images, written)
