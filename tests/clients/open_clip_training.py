"""What the tests of open_clip's loop share with the scripts of their processes: data, a tiny model, losses by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from open_clip import CLIP, create_loss, image_transform, tokenize
from open_clip_train.data import get_data
from open_clip_train.train import train_one_epoch

import labelgen
from labelgen.loader import Lookup, OpenClipBatches, OpenClipLoss, with_ids
from labelgen.losses.modules import Bcls
from labelgen.store.reader import Store

SCHEME = "cusa(mode='each')"
TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    "output_dict": True,
}
RATE = 0.05


def arguments(csv: Path, **others: Any) -> SimpleNamespace:
    """The options that open_clip's functions read here, as its command line would give them."""
    common = {
        "train_data": str(csv), "val_data": None, "imagenet_val": None, "imagenet_v2": None, "dataset_type": "csv",
        "csv_img_key": "filepath", "csv_caption_key": "title", "csv_separator": "\t", "batch_size": 8, "workers": 0,
        "distributed": False, "model": "tiny", "siglip": False, "loss_dist_impl": None,
        "distill": False, "horovod": False, "device": "cpu",
        "precision": "fp32", "accum_freq": 1, "grad_clip_norm": None, "skip_scheduler": True, "wandb": False,
        "log_every_n_steps": 1, "rank": 0, "world_size": 1, "local_loss": False, "gather_with_grad": False,
    }  # fmt: skip
    return SimpleNamespace(**common | others)


class Recorded(OpenClipLoss):
    """Keeps the losses of every call."""

    def forward(self, *features: Any, **named: Any) -> Any:
        found = super().forward(*features, **named)
        seen = self.__dict__.setdefault("seen", [])
        seen.append({name: value.item() for name, value in found.items()})
        return found


def new_model(**others: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return CLIP(**TINY, **others)


def train(
    store: Store, args: SimpleNamespace, model: torch.nn.Module, epochs: int = 1, soft: Any = None, **weights: Any
) -> Recorded:
    """Epochs of open_clip's own loop over its own CSV loader; the loss with what it has seen."""
    transform = image_transform(TINY["vision_cfg"]["image_size"], is_train=False)
    data = get_data(args, (transform, transform), tokenizer=tokenize)
    loader = data["train"].dataloader
    ids = Lookup(store)(loader.dataset.images, loader.dataset.captions)
    batches = OpenClipBatches(with_ids(loader, *ids), store, scheme=SCHEME)
    data["train"].dataloader = batches
    loss = Recorded(batches, create_loss(args), soft, **weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    for epoch in range(epochs):
        torch.manual_seed(epoch)  # the order of a shuffling sampler
        train_one_epoch(model, data, loss, epoch, optimizer, None, None, None, args)
    return loss


def samples(csv: Path, order: list[int]) -> tuple[Any, Any, list[str], list[str]]:
    """Images, texts, paths and captions of the file, in an order; read without any loader."""
    from PIL import Image

    lines = [line.split("\t") for line in csv.read_text(encoding="utf-8").splitlines()[1:]]
    paths, texts = [lines[at][0] for at in order], [lines[at][1].strip('"') for at in order]
    transform = image_transform(TINY["vision_cfg"]["image_size"], is_train=False)
    return torch.stack([transform(Image.open(path)) for path in paths]), tokenize(texts), paths, texts


def by_hand(store: Store, csv: Path, order: list[int], model: Any, own: slice | None = None) -> dict[str, torch.Tensor]:
    """Cross entropy and CUSA's alignment of all pairs of a step, written out; of the rows `own` if that is given.

    Beside them the loss of `Bcls` on the same scores.
    """
    images, texts, paths, captions = samples(csv, order)
    image_ids = [Path(path).stem.lstrip("0") for path in paths]
    table = dict(zip(store.captions["text"], store.captions["caption_id"], strict=True))
    labels = labelgen.soft_labels(store, image_ids, [table[text] for text in captions], scheme=SCHEME)
    found = model(images, texts)
    scores = found["image_features"] @ found["text_features"].T
    rows = slice(None) if own is None else own
    hard, soft = [], []
    for matrix, target in ((scores, labels.relevance), (scores.T, labels.relevance_t2i)):
        logs = (found["logit_scale"] * matrix).log_softmax(1)[rows]
        truth = (torch.from_numpy(target) / 0.1).softmax(1)[rows]
        hard.append(-logs[torch.arange(len(logs)), torch.arange(len(matrix))[rows]].mean())
        soft.append((truth * (truth.log() - logs)).sum(1).mean())
    bcls = Bcls(gap=0.01)(scores, labels.map(torch.from_numpy))
    return {"contrastive_loss": sum(hard) / 2, "soft_loss": sum(soft) / 2, "bcls": bcls}


def stepped(model: Any, losses: dict[str, torch.Tensor], accumulated: int) -> Any:
    """A copy of the model after one step of SGD on the sum of the losses of `train`.

    open_clip accumulates the features' gradients exactly, and that of the scale once a batch.
    """
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = dict(
        zip(
            names,
            torch.autograd.grad(losses["contrastive_loss"] + losses["soft_loss"], parameters, allow_unused=True),
            strict=True,
        )
    )
    gradients["logit_scale"] *= accumulated
    after = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            if gradients[name] is not None:
                parameter.sub_(RATE * gradients[name])
    return after
