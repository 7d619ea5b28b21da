"""An open_clip model with soft labels beside its own loss: the loop of open_clip's trainer, two lines longer.

    python examples/train_open_clip.py stores/demo                # photographs of the demo set, a tiny model
    python examples/train_open_clip.py stores/flickr8k --photos DATA/images --model ViT-B-32 --pretrained openai

Without --pretrained nothing is downloaded: the model below starts from nothing and shows how, not how well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import labelgen
from corpus import texts_of, usable
from labelgen import losses
from labelgen.loader import OpenClipBatches, WithIds
from labelgen.loader.collate import to_tensors
from labelgen.resources import demo_root
from labelgen.store.reader import Store

TINY = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


class Photos(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """(image, text), as open_clip's own data sets give them."""

    def __init__(self, files: list[Path], texts: list[str], transform: Callable[[Any], torch.Tensor]) -> None:
        self.files, self.words, self.transform = files, open_clip.tokenize(texts), transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, torch.Tensor]:
        with Image.open(self.files[at]) as photo:
            return self.transform(photo.convert("RGB")), self.words[at]


def batches_of(store: Store, photos: Path, transform: Any, batch: int, scheme: str, workers: int) -> OpenClipBatches:
    """The training split in batches, with soft labels: ids go into the samples, labels come out with the batch."""
    _, captions = usable(store, "train")
    owner = store.image_of(captions)
    files = [photos / name for name in store.images["file"].gather(owner.tolist())]
    data = WithIds(
        Photos(files, texts_of(store, captions), transform), store.image_ids(owner), store.caption_ids(captions)
    )
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers)
    return OpenClipBatches(loader, store, scheme=scheme)


def new_model(name: str | None, pretrained: str | None) -> tuple[torch.nn.Module, Any]:
    """A model and the transform of its photographs."""
    if name is not None:
        model, transform, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained)
        return model, transform
    model = open_clip.CLIP(**TINY)
    return model, open_clip.image_transform(TINY["vision_cfg"]["image_size"], is_train=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a sealed store with a text and an image teacher")
    parser.add_argument("--photos", type=Path, help="folder of the photographs (that of the demo set)")
    parser.add_argument("--model", help="name in open_clip; a tiny model without")
    parser.add_argument("--pretrained", help="tag of its weights in open_clip")
    parser.add_argument("--scheme", default="cusa(mode='add')")
    parser.add_argument("--weight", type=float, default=1.0, help="of the soft labels beside the contrastive loss")
    parser.add_argument("--relevance-temperature", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(0)
    model, transform = new_model(options.model, options.pretrained)
    photos = options.photos or demo_root() / "images"
    loader = batches_of(labelgen.open(options.store), photos, transform, options.batch, options.scheme, options.workers)
    hard = open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate)
    model.train()
    for epoch in range(options.epochs):
        passed = []
        for (images, texts), labels in loader:  # open_clip: for images, texts in loader
            soft = to_tensors(labels)
            image_rows, text_rows, scale = model(images, texts)
            aligned = losses.csa(
                image_rows @ text_rows.T,
                soft.relevance,
                relevance_t2i=soft.relevance_t2i,
                temperature=1 / scale,
                relevance_temperature=options.relevance_temperature,
            )
            loss = hard(image_rows, text_rows, scale) + options.weight * aligned
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            passed.append(loss.item())
        print(f"epoch {epoch}: loss {sum(passed) / len(passed):.4f}")


if __name__ == "__main__":
    main()
