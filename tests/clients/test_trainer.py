"""The Hugging Face Trainer on a `datasets.Dataset` of paths and captions: dict batches, evaluation, unused columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import labelgen
from labelgen.errors import ConfigError
from labelgen.loader import Lookup, SoftLabelCollate, TensorLabels
from labelgen.losses import csa, info_nce
from labelgen.resources import demo_root
from labelgen.store.reader import Store

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


class TwoTowers(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A small network over photographs and words; keeps what it saw and lost."""

    def __init__(self) -> None:
        super().__init__()
        self.image = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 8 * 8, 16)
        )
        self.text = torch.nn.EmbeddingBag(1000, 16, mode="mean")
        self.seen: list[tuple[TensorLabels, float]] = []

    def forward(self, pixel_values: Any, input_ids: Any, soft_labels: Any = None) -> dict[str, Any]:
        images, texts = (
            torch.nn.functional.normalize(rows, dim=-1) for rows in (self.image(pixel_values), self.text(input_ids))
        )
        scores = images @ texts.T
        if soft_labels is None:
            return {"scores": scores}
        loss = info_nce(scores, positives=soft_labels.same_image) + csa(
            scores, soft_labels.relevance, relevance_t2i=soft_labels.relevance_t2i, relevance_temperature=0.1
        )
        self.seen.append((soft_labels, loss.item()))
        return {"loss": loss, "scores": scores}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Photographs of 32 pixels and numbers of words."""
    from PIL import Image

    pixels = []
    for sample in samples:
        with Image.open(sample["path"]) as photo:
            pixels.append(
                torch.frombuffer(bytearray(photo.convert("RGB").resize((32, 32)).tobytes()), dtype=torch.uint8)
            )
    words = [[sum(map(ord, word)) % 1000 for word in sample["caption"].split()][:8] for sample in samples]
    ids = torch.tensor([(line * 8)[:8] for line in words])
    return {"pixel_values": torch.stack(pixels).view(-1, 32, 32, 3).permute(0, 3, 1, 2) / 255, "input_ids": ids}


@pytest.fixture(scope="module")
def splits(store: Store) -> dict[str, Any]:
    """Two captions of every image of train, one of the first 12 of val: no ids, as most data sets are."""
    files, texts = store.images["file"], store.captions["text"]
    made = {}
    for split, number, count in (("train", 2, 24), ("val", 1, 12)):
        rows = [int(store.offsets[row]) + at for row in list(store.splits[split])[:count] for at in range(number)]
        paths = [str(demo_root() / "images" / files[int(row)]) for row in store.image_of(rows)]
        made[split] = datasets.Dataset.from_dict({"path": paths, "caption": [texts[row] for row in rows], "rest": rows})
    return made


def trainer(store: Store, splits: dict[str, Any], out: Path, model: Any, metrics: Any = None, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 8, "per_device_eval_batch_size": 6, "num_train_epochs": 6, "learning_rate": 0.01,
        "eval_strategy": "epoch", "logging_steps": 1, "save_strategy": "no", "remove_unused_columns": False,
        "report_to": [], "use_cpu": True, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(output_dir=str(out), **settings | options)
    collator = SoftLabelCollate(
        store, "path", "caption", lookup=Lookup(store), scheme="cusa(mode='each')", collate=collate
    )
    return transformers.Trainer(
        model=model, args=arguments, data_collator=collator, train_dataset=splits["train"],
        eval_dataset=splits["val"], compute_metrics=metrics,
    )  # fmt: skip


def by_hand(store: Store, samples: list[dict[str, Any]], model: TwoTowers) -> float:
    """The loss of a batch, from the pixels, the ids and the formulas."""
    captions = [sample["rest"] for sample in samples]
    image_ids = store.image_ids(store.image_of(captions))
    soft = labelgen.soft_labels(store, image_ids, store.caption_ids(captions), scheme="cusa(mode='each')")
    with torch.no_grad():
        scores = model(**collate(samples))["scores"]
    total = 0.0
    for matrix, target in ((scores, soft.relevance), (scores.T, soft.relevance_t2i)):
        own = torch.from_numpy(soft.same_image).float()
        hard = -((matrix / 0.05).log_softmax(1) * own).sum(1) / own.sum(1)
        truth = (torch.from_numpy(target) / 0.1).softmax(1)
        divergence = (truth * (truth.log() - (matrix / 0.45).log_softmax(1))).sum(1)
        total += (hard + divergence).mean().item() / 2
    return total


def test_training_with_evaluation(store: Store, splits: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = TwoTowers()
    before = [by_hand(store, [splits["val"][at] for at in range(low, low + 6)], model) for low in (0, 6)]
    made = trainer(store, splits, tmp_path, model)
    assert made.evaluate()["eval_loss"] == pytest.approx(sum(before) / 2, rel=1e-4)
    model.seen.clear()
    first = next(iter(made.get_train_dataloader()))
    assert isinstance(first["soft_labels"], TensorLabels)
    made.train()
    losses = [line["loss"] for line in made.state.log_history if "loss" in line]
    evaluated = [line["eval_loss"] for line in made.state.log_history if "eval_loss" in line]
    assert (len(losses), len(evaluated)) == (36, 6)
    assert torch.tensor([*losses, *evaluated]).isfinite().all()
    assert sum(losses[-6:]) < 0.85 * sum(losses[:6])
    after = [by_hand(store, [splits["val"][at] for at in range(low, low + 6)], model) for low in (0, 6)]
    assert evaluated[-1] == pytest.approx(sum(after) / 2, rel=1e-4)


def test_a_step_is_that_of_its_batch(store: Store, splits: dict[str, Any], tmp_path: Path) -> None:
    """Every training batch has the labels and the loss of its own samples."""
    torch.manual_seed(0)
    model = TwoTowers()
    made = trainer(store, splits, tmp_path, model, max_steps=4, learning_rate=0.0, eval_strategy="no")
    samples: list[list[dict[str, Any]]] = []
    inner = made.data_collator.collate

    def remembering(batch: list[dict[str, Any]]) -> dict[str, Any]:
        samples.append(batch)
        return inner(batch)

    made.data_collator.collate = remembering
    made.train()
    seen = list(model.seen)
    assert len(seen) == 4
    for batch, (labels, loss) in zip(samples, seen, strict=False):
        captions = [sample["rest"] for sample in batch]
        assert labels.image_rows.tolist() == store.image_of(captions).tolist()
        assert loss == pytest.approx(by_hand(store, batch, model), rel=1e-4)


def test_metrics_get_the_labels(store: Store, splits: dict[str, Any], tmp_path: Path) -> None:
    """With compute_metrics the labels are gathered and joined with those of other batches."""
    found = {}

    def metrics(prediction: Any) -> dict[str, float]:
        found.update(prediction.label_ids)
        return {"share": float(found["same_image"].mean())}

    made = trainer(store, splits, tmp_path, TwoTowers(), metrics)
    assert made.evaluate()["eval_share"] == pytest.approx(1 / 6)
    assert found["relevance"].shape == (12, 6)
    captions = [splits["val"][at]["rest"] for at in range(6, 12)]
    wanted = labelgen.soft_labels(
        store, store.image_ids(store.image_of(captions)), store.caption_ids(captions), scheme="cusa(mode='each')"
    )
    assert (found["relevance"][6:] == wanted.relevance).all()


def test_removed_columns_are_explained(store: Store, splits: dict[str, Any], tmp_path: Path) -> None:
    renamed = {name: split.rename_column("rest", "input_ids") for name, split in splits.items()}
    made = trainer(store, renamed, tmp_path, TwoTowers(), remove_unused_columns=True)
    with pytest.raises(ConfigError, match=r"has no 'path'\n  found: 'input_ids'\n.*remove_unused_columns=False"):
        made.train()


def test_columns_of_ids_stay_out_of_the_call(store: Store) -> None:
    """A model that is called with a batch takes no ids."""
    samples = [
        {"image_id": image, "caption_id": store.caption_ids([store.captions_of(row)[0]])[0], "x": torch.ones(2)}
        for row, image in enumerate(store.image_ids(range(3)))
    ]
    whole = SoftLabelCollate(store)(samples)
    bare = SoftLabelCollate(store, keep_ids=False)(samples)
    assert sorted(whole) == ["caption_id", "image_id", "soft_labels", "x"]
    assert sorted(bare) == ["soft_labels", "x"]
    assert torch.equal(bare["soft_labels"].relevance, whole["soft_labels"].relevance)
    by_place = SoftLabelCollate(store, 0, -1, keep_ids=False)
    images, labels = by_place([(one["image_id"], one["x"], one["caption_id"]) for one in samples])
    assert images.shape == (3, 2)
    assert torch.equal(labels.relevance, whole["soft_labels"].relevance)
    with pytest.raises(ConfigError, match="a key is a function"):
        SoftLabelCollate(store, len, keep_ids=False)
