"""Cards of files that say little: nothing in common, annotated pairs only, one image; cards that are stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.audit.card.card import CardInterrupted, agreement_card
from labelgen.audit.card.pairs import resolve
from labelgen.audit.card.retrieval import answers_of, retrieval_values
from labelgen.audit.judgements.judgements import Judgements, graded_frame
from labelgen.cli.main import cli
from labelgen.errors import DatasetError, StoreMismatchError, TeacherError, UnknownIdError, UnknownNameError
from labelgen.progress import Event
from labelgen.relevance.base import BlockRequest
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store
from labelgen.types import Relation


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """16 images with five captions each."""
    path = tmp_path_factory.mktemp("partial") / "s"
    return labelgen.open(make_store(path, n_images=16, lists=False, dims={"text": 12, "clip": 10}))


def graded(store: Store, pairs: Sequence[tuple[int, int]], name: str = "made", right: float | None = 3.0) -> Judgements:
    """Ratings 1 to 5 of (image, caption) rows."""
    draw = np.random.default_rng(0)
    frame = graded_frame(
        store.image_ids([image for image, _ in pairs]),
        store.caption_ids([caption for _, caption in pairs]),
        draw.integers(1, 6, len(pairs)).astype(float).tolist(),
    )
    return Judgements(name, "made", Relation.I2T, ("image", "caption"), "graded", frame, right, "1 to 5")


def many(store: Store, name: str = "made") -> Judgements:
    return graded(store, [(image, caption) for image in range(16) for caption in range(image % 3, 80, 3)], name)


def positives(store: Store) -> Judgements:
    """Captions of four images ask for images; those of one image have the same answers."""
    queries = [caption for image in range(4) for caption in range(5 * image, 5 * image + 5)]
    pairs = [(query, item) for query in queries for item in ((query // 5 + step) % 12 for step in (0, 3, 7))]
    frame = graded_frame(
        store.caption_ids([query for query, _ in pairs]),
        store.image_ids([item for _, item in pairs]),
        [1.0] * len(pairs),
    )
    return Judgements("back", "made", Relation.T2I, ("caption", "image"), "positives", frame, 1.0, "1: right")


def test_captions_of_one_image_are_drawn_together(store: Store) -> None:
    """The interval of caption-to-image retrieval, by a bootstrap of the four images in a plain loop.

    The label is that of the captions' images, so captions of one image have the same answers and the same ranking.
    """
    judged = positives(store)
    pairs = resolve(store, judged)
    answers = answers_of(store, pairs)
    (measured,) = list(retrieval_values(store, [BlockRequest(Relation.I2I, "clip")], pairs.relation, answers))[-1]
    values = measured["with annotated", "map_at_r"][0]
    draw = np.random.default_rng(5)
    means = [np.mean([values[answers.queries // 5 == image] for image in draw.integers(0, 4, 4)]) for _ in range(4000)]
    apart = [values[draw.integers(0, 20, 20)].mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert high - low > 1.3 * np.subtract(*np.quantile(apart, [0.975, 0.025])), "the data tells them apart"
    card = agreement_card(store, judged, replicates=4000)
    row = next(row for row in card.rows if (row.label, row.subset) == ("i2i.clip", "with annotated"))
    assert (row.pairs, row.images) == (20, 4)
    figure = row.figures["map_at_r"]
    assert figure.value == pytest.approx(values.mean())
    assert (figure.low, figure.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


@pytest.mark.parametrize("fit", [False, True])
def test_annotated_pairs_alone(store: Store, fit: bool) -> None:
    """Two rated annotated pairs: no line of unannotated pairs, and no fusion; both are said."""
    card = agreement_card(store, graded(store, [(image, 5 * image) for image in range(8)]), fit=fit, replicates=5)
    assert {row.subset for row in card.rows} == {"all"}
    assert any("no unannotated pair" in note for note in card.notes)
    assert fit == any("no fusion is fitted" in note for note in card.notes)


def test_a_file_without_overlap_refuses_no_other(store: Store) -> None:
    frame = graded_frame(["nobody"], ["nothing"], [1.0])
    alien = Judgements("alien", "x", Relation.I2T, ("image", "caption"), "graded", frame, None, "x")
    card = agreement_card(store, [alien, many(store)], replicates=5)
    assert {row.judgements for row in card.rows} == {"made"}
    assert "alien in s: skipped, none of its judged pairs is in the store" in card.notes
    with pytest.raises(UnknownIdError, match="none of the 1 judged pairs of alien"):
        agreement_card(store, [alien, alien], replicates=5)


def test_one_image_has_no_interval(store: Store) -> None:
    one = graded(store, [(0, caption) for caption in range(20, 40)])
    card = agreement_card(store, one, replicates=20)
    for row in card.rows:
        assert row.images == 1
        assert np.isfinite(row.figures["spearman"].value)
        assert row.figures["spearman"].to_json()["low"] is None
    assert "nan" not in " ".join(card.recommendation)
    frame = graded_frame(["cap-0"] * 3, ["img-0", "img-2", "img-5"], [1.0] * 3)
    query = Judgements("one", "x", Relation.T2I, ("caption", "image"), "positives", frame, 1.0, "x")
    for row in agreement_card(store, query, replicates=20).rows:
        assert (row.pairs, row.images) == (1, 1)
        assert row.figures["map_at_r"].to_json()["high"] is None


def test_files_of_one_name_stay_apart(store: Store) -> None:
    card = agreement_card(store, [many(store), many(store)], replicates=5)
    assert {row.judgements for row in card.rows} == {"made", "made (2)"}


def test_a_stopped_card_has_the_lines_that_are_done(store: Store) -> None:
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if event.kind == "task" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        agreement_card(store, [many(store, "a"), many(store, "b")], fit=True, replicates=5, progress=stop)
    assert isinstance(caught.value, CardInterrupted)
    card = caught.value.card
    total = events[-1].total
    assert not card.complete
    assert card.notes[-1] == f"stopped: 3 of {total} labels are compared, the others are missing"
    assert len({row.label for row in card.rows}) == 3
    assert not card.recommendation  # of a file whose lines are not complete
    whole = agreement_card(store, [many(store, "a"), many(store, "b")], fit=True, replicates=5)
    assert whole.complete
    assert len(whole.rows) == 2 * total  # two subsets a label
    assert all(row in whole.rows for row in card.rows)


def test_command_prints_what_is_done_when_it_is_stopped(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from labelgen.audit.card import lines

    file = tmp_path / "mine.parquet"
    many(store).frame.rename({"left": "image_id", "right": "caption_id"}).write_parquet(file)
    compared, calls = lines.agreement_figures, []

    def interrupted(*args: object, **options: object) -> object:
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return compared(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(lines, "agreement_figures", interrupted)
    run = CliRunner().invoke(cli, ["card", str(store.path), "--against", str(file), "--bootstrap", "5"])
    assert run.exit_code == 130
    assert "i2t.text" in run.stdout
    assert "stopped: 1 of 7 labels are compared" in " ".join(run.output.split())
    calls.clear()
    run = CliRunner().invoke(cli, ["card", str(store.path), "--against", str(file), "--bootstrap", "5", "--json"])
    assert json.loads(run.stdout)["complete"] is False


@pytest.mark.parametrize("kind", ["polars", "pandas", "arrow", "columns", "records"])
def test_tables_in_memory_are_judgements(store: Store, tmp_path: Path, kind: str) -> None:
    frame = many(store).frame.rename({"left": "image_id", "right": "caption_id"})
    frame.write_parquet(tmp_path / "judgements 1.parquet")
    given = {
        "polars": lambda: frame,
        "pandas": lambda: pytest.importorskip("pandas").DataFrame(frame.to_dict(as_series=False)),
        "arrow": frame.to_arrow,
        "columns": lambda: frame.to_dict(as_series=False),
        "records": frame.to_dicts,
    }[kind]()
    found = agreement_card(store, given, replicates=5)
    assert found.to_json() == agreement_card(store, tmp_path / "judgements 1.parquet", replicates=5).to_json()


def test_tables_of_the_published_files_are_known(store: Store) -> None:
    sits = pl.DataFrame(
        {"caption": ["COCO_val2014:sentid:1"], "image": ["COCO_val2014_000000000002.jpg"], "agg_score": [1.0]}
    )
    with pytest.raises(UnknownIdError, match="judgements 1"):
        agreement_card(store, [sits])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"image_id": [], "caption_id": [], "rating": []}, "no row"),
        ({"image_id": ["img-0", None], "caption_id": ["cap-9", "cap-1"], "rating": [1.0, 2.0]}, "unusable id"),
        ({"image_id": [1.0], "caption_id": ["cap-1"], "rating": [1.0]}, "unusable id"),
        ({"image_id": ["img-0"], "caption_id": ["cap-1"], "rating": [None]}, "no numbers"),
        ({"image_id": ["img-0"], "caption_id": ["cap-1"], "rating": ["high"]}, "no numbers"),
        ({"image": ["img-0"], "caption": ["cap-1"], "stars": [1.0]}, "unclear"),
        ({"image_id": ["img-0"], "caption_id": [["cap-1"]], "rating": [1.0]}, "unusable id"),
        (7, "not a data set"),
    ],
)
def test_tables_that_cannot_be_used(store: Store, table: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        agreement_card(store, table)


FACTORY = """
import numpy as np


class Encoder:
    identity = "{identity}"

    def encode_texts(self, texts):
        return np.array([[len(text) + 1.0, text.count("a") + 1.0, text.count("o")] for text in texts], np.float32)


def make():
    return Encoder()
"""


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store made with a Python object, in a folder with its module and with judged sentences."""
    for name in ("mine", "other"):
        (tmp_path / f"{name}_encoder.py").write_text(FACTORY.format(identity=name), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = [f"a {'long ' * n}caption of a photo" for n in range(6)]
    table = {"image_id": [f"i{n // 2}" for n in range(6)], "caption": texts}
    labelgen.build(table, tmp_path / "s", teachers={"text": "mine_encoder:make"})
    judged = {"text": [texts[0]] * 3, "text_2": [texts[1], "quite new", "o, and new"], "rating": [1.0, 2.0, 3.0]}
    pl.DataFrame(judged).write_csv(tmp_path / "sentences.csv")
    yield tmp_path
    for name in ("mine_encoder", "other_encoder"):
        sys.modules.pop(name, None)


def test_objects_encode_sentences_when_they_are_given_again(encoded: Path) -> None:
    from mine_encoder import make  # type: ignore[import-not-found]

    store, file = encoded / "s", encoded / "sentences.csv"
    with pytest.raises(TeacherError, match="is a Python object, which is not stored"):
        agreement_card(store, file, replicates=5)
    card = agreement_card(store, file, teachers={"text": "mine_encoder:make"}, replicates=5)
    assert [(row.label, row.subset, row.pairs) for row in card.rows] == [
        ("t2t.text", "all", 3),
        ("t2t.text", "unannotated", 2),
    ]
    table = {"image_id": ["i0", "i1"], "caption": pl.read_csv(file)["text_2"].to_list()[:2]}
    labelgen.build(table, encoded / "o", teachers={"text": make()})
    again = agreement_card(encoded / "o", file, teachers={"text": make()}, replicates=5)
    assert {row.label for row in again.rows} == {"t2t.text"}
    with pytest.raises(StoreMismatchError, match="another teacher 'text'"):
        agreement_card(store, file, teachers={"text": "other_encoder:make"}, replicates=5)
    with pytest.raises(UnknownNameError, match="texts"):
        agreement_card(store, file, teachers={"texts": "mine_encoder:make"}, replicates=5)


def test_command_takes_the_object(encoded: Path) -> None:
    options = ["card", "s", "--against", "sentences.csv", "--bootstrap", "5"]
    run = CliRunner().invoke(cli, [*options, "--teacher", "text=mine_encoder:make"])
    assert run.exit_code == 0, run.output
    assert "3 pairs of 1 image" in run.stdout
    refused = CliRunner().invoke(cli, options)
    assert refused.exit_code == 4
    assert "--teacher alias=module:factory" in refused.output
