"""An open_clip model with soft labels beside its own loss, trained by open_clip's own `train_one_epoch`.

    python examples/train_open_clip.py stores/demo                # photographs of the demo set, a tiny model
    python examples/train_open_clip.py stores/flickr8k --photos DATA/images --model ViT-B-32 --pretrained openai

Without --pretrained nothing is downloaded: the model below starts from nothing and shows how, not how well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip_train.data import DataInfo
from open_clip_train.train import train_one_epoch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import labelgen
from corpus import texts_of, usable
from labelgen.loader import OpenClipBatches, OpenClipLoss, WithIds
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
    """The training split in batches that remember their pairs: ids go into the samples and are taken out again."""
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
        model, transform, _ = open_clip.create_model_and_transforms(name, pretrained=pretrained, output_dict=True)
        return model, transform
    model = open_clip.CLIP(**TINY, output_dict=True)
    return model, open_clip.image_transform(TINY["vision_cfg"]["image_size"], is_train=True)


def arguments(batch: int) -> SimpleNamespace:
    """What open_clip's loop and `create_loss` read of the options of its command line, for one process on the CPU."""
    return SimpleNamespace(
        model="", device="cpu", precision="fp32", batch_size=batch, accum_freq=1, log_every_n_steps=1, rank=0,
        world_size=1, local_loss=False, gather_with_grad=False, distill=False, siglip=False, horovod=False,
        grad_clip_norm=None, skip_scheduler=True, wandb=False,
    )  # fmt: skip


class Losses:
    """Takes what open_clip's loop writes for TensorBoard."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add_scalar(self, name: str, value: float, _step: int) -> None:
        """Keep the total loss of a step."""
        if name == "train/loss":
            self.values.append(value)


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
    args = arguments(options.batch)
    loss = OpenClipLoss(
        loader,
        open_clip.create_loss(args),
        weight=options.weight,
        relevance_temperature=options.relevance_temperature,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate)
    for epoch in range(options.epochs):
        passed = Losses()
        train_one_epoch(model, {"train": DataInfo(loader)}, loss, epoch, optimizer, None, None, None, args, passed)
        print(f"epoch {epoch}: loss {sum(passed.values) / len(passed.values):.4f}")


if __name__ == "__main__":
    main()
