"""The same spec with other weights behind it: append, resume and update refuse it, and change nothing.

The teacher is a tiny network in a local folder. The folder keeps its name while its weights change, which is what
happens when a checkpoint is trained further or downloaded again.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import labelgen
from labelgen import pipeline
from labelgen.errors import StoreMismatchError
from labelgen.stages.running import worker
from labelgen.store.disk import atomic
from labelgen.store.manifest import load_manifest

pytest.importorskip("sentence_transformers")

OTHER_NETWORK = "is not the one that the store at .* was made with"
OTHER_SINCE = "is not the one that the unfinished work in .* was begun with"


def write_network(folder: Path, seed: int) -> None:
    """A BERT of one layer of width 16, one token per letter, with the weights of a seed."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(exist_ok=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"{head}{letter}" for head in ("", "##") for letter in string.ascii_lowercase + string.digits]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **shape)).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(folder, model_max_length=32).save_pretrained(folder)
    worker.release_teachers()  # as in a new process


def write_table(root: Path, first: int, last: int) -> Path:
    """Images number `first` to `last`, with one caption each."""
    root.mkdir(exist_ok=True)
    rows = [
        {"image_id": f"i{n}", "caption": "abcdefghijklmnopqr"[n] * (1 + n % 5) + f" {n * n}"}
        for n in range(first, last + 1)
    ]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


class Case:
    """A table of 12 images, one of 6 more, and the folder of a network."""

    def __init__(self, folder: Path) -> None:
        self.model, self.out = folder / "model", folder / "store"
        self.first, self.more = write_table(folder / "first", 0, 11), write_table(folder / "more", 12, 17)
        self.spec = f"sbert(model={str(self.model)!r})"
        write_network(self.model, 0)

    def build(self) -> pipeline.BuildReport:
        search = ["search.k=3", f'dataset.root="{self.first}"']
        config = pipeline.resolve(dataset="table", overrides=[*search, f"teachers.text={self.spec}"])
        return pipeline.build(config, self.out)

    def append(self) -> pipeline.BuildReport:
        return pipeline.append(self.out, overrides=[f'dataset.root="{self.more}"'])

    def add(self) -> pipeline.BuildReport:
        root = [f'dataset.root="{self.first}"']
        return pipeline.add(self.out, teachers={"second": self.spec.replace(")", ", text='cusa')")}, overrides=root)

    def stop(self, work: Callable[[], object], place: str) -> None:
        """Run a step and stop it where a file of this place appears."""
        rename = atomic.rename

        def stopping(temporary: Path, target: Path) -> None:
            if place in str(target):
                raise KeyboardInterrupt
            rename(temporary, target)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(atomic, "rename", stopping)
            with pytest.raises(KeyboardInterrupt):
                work()
        worker.release_teachers()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_append_with_other_weights_is_refused(case: Case) -> None:
    case.build()
    before = load_manifest(case.out)
    rows = np.asarray(labelgen.open(case.out).embeddings("text")).tobytes()
    write_network(case.model, 1)
    with pytest.raises(StoreMismatchError, match=OTHER_NETWORK) as refused:
        case.append()
    assert "identity.weights" in refused.value.found
    assert load_manifest(case.out) == before
    assert np.asarray(labelgen.open(case.out).embeddings("text")).tobytes() == rows
    assert pipeline.verify(case.out).problems == ()
    write_network(case.model, 0)
    assert case.append().appended == 6
    after = np.asarray(labelgen.open(case.out).embeddings("text"))
    assert after[:12].tobytes() == rows
    assert len(after) == 18


def test_a_resumed_build_with_other_weights_is_refused(case: Case, tmp_path: Path) -> None:
    undisturbed = case.build().content_digest
    case.out = tmp_path / "resumed"
    worker.release_teachers()
    case.stop(case.build, "receipts/search/")
    write_network(case.model, 1)
    with pytest.raises(StoreMismatchError, match=OTHER_SINCE) as refused:
        case.build()
    assert "weights" in refused.value.found
    assert not (case.out / "manifest.json").exists()
    write_network(case.model, 0)
    assert case.build().content_digest == undisturbed


def test_a_resumed_append_with_other_weights_is_refused(case: Case) -> None:
    case.build()
    before = load_manifest(case.out)
    case.stop(case.append, "receipts/search/")
    write_network(case.model, 1)
    with pytest.raises(StoreMismatchError, match=OTHER_NETWORK):
        case.append()
    assert load_manifest(case.out) == before
    write_network(case.model, 0)
    assert case.append().appended == 6


def test_a_resumed_update_with_other_weights_is_refused(case: Case) -> None:
    """The new teacher has no sealed rows: what it is compared with is the note of the unfinished work."""
    case.build()
    before = load_manifest(case.out)
    case.stop(case.add, "receipts/search/")
    write_network(case.model, 1)
    with pytest.raises(StoreMismatchError, match=OTHER_SINCE):
        case.add()
    assert load_manifest(case.out) == before
    write_network(case.model, 0)
    assert case.add().changed
    assert set(labelgen.open(case.out).manifest.teachers) == {"text", "second"}


@pytest.mark.parametrize(("columns", "refused"), [(4, False), (5, True)])
def test_features_may_grow_by_rows_but_not_by_columns(tmp_path: Path, columns: int, refused: bool) -> None:
    """A file of features that are looked up by id is no network: it grows with the data set."""
    case = Case(tmp_path)
    features = tmp_path / "features.npz"
    case.spec = f"precomputed(path={str(features)!r}, modality='image')"
    draw = np.random.default_rng(0)
    rows = {f"i{n}": draw.standard_normal(4).astype(np.float32) for n in range(12)}
    np.savez(features, **rows)
    case.build()
    worker.release_teachers()
    if columns == 4:
        np.savez(features, **rows, **{f"i{n}": draw.standard_normal(4).astype(np.float32) for n in range(12, 18)})
        assert case.append().appended == 6
    else:
        np.savez(features, **{f"i{n}": draw.standard_normal(columns).astype(np.float32) for n in range(18)})
        with pytest.raises(StoreMismatchError, match=OTHER_NETWORK) as error:
            case.append()
        assert "dim" in error.value.found
    assert pipeline.verify(case.out).problems == ()
    assert (load_manifest(case.out).generation == 1) is refused
