"""The agreement card on made stores: values by brute force, resolution of ids, retrieval by hand, several stores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import labelgen
from labelgen.audit.card.advice import advice
from labelgen.audit.card.card import agreement_card
from labelgen.audit.card.labels import PairLabels, labels_of
from labelgen.audit.card.measures import Figure
from labelgen.audit.card.pairs import resolve
from labelgen.audit.card.retrieval import answers_of, ranked_twice, retrieval_values
from labelgen.audit.card.rows import CardRow
from labelgen.audit.judgements.judgements import Judgements, Kind, graded_frame, read_judgements
from labelgen.cli.main import cli
from labelgen.errors import ConfigError, UnknownIdError
from labelgen.relevance.base import BlockRequest
from labelgen.relevance.fusion import fusion
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store
from labelgen.types import Float64, Int64, Relation


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """20 images with 0 to 4 captions; one photograph and one caption have no embedding."""
    path = tmp_path_factory.mktemp("card") / "a"
    sizes = [3, 1, 4, 2, 0] * 4
    dims = {"text": 12, "image": 8, "clip": 10}
    return labelgen.open(make_store(path, n_images=20, captions_per_image=sizes, dims=dims, missing_images=[3]))


@pytest.fixture(scope="module")
def judged(store: Store) -> Judgements:
    """Every image with every caption; the rating grows with the text teacher's own opinion, with noise."""
    images, captions = store.images["image_id"].to_list(), store.captions["caption_id"].to_list()
    draw = np.random.default_rng(0)
    pairs = [(image, caption) for image in images for caption in captions if draw.random() < 0.5]
    block, _ = store.block("i2t", images, captions, alias="text", missing="mask")
    place = {name: row for row, name in enumerate(images)}, {name: row for row, name in enumerate(captions)}
    rating = [
        round(float(block[place[0][image], place[1][caption]]) * 4 + draw.normal()) + 4.0 for image, caption in pairs
    ]
    frame = graded_frame([image for image, _ in pairs], [caption for _, caption in pairs], rating)
    return Judgements("made", "made", Relation.I2T, ("image", "caption"), "graded", frame, 5.0, "made")


def brute(store: Store, need: BlockRequest, image: int, caption: int) -> float:
    """One label, from the embeddings, in plain float64."""

    def unit(alias: str, side: str, row: int) -> np.ndarray:
        vector = store.embeddings(alias, side).take(np.array([row]))[0].astype(np.float64)  # type: ignore[arg-type]
        length = np.linalg.norm(vector)
        return vector / length if length else vector * np.nan

    alias = need.alias or ""
    if need.relation is Relation.I2I:
        return float(unit(alias, "image", image) @ unit(alias, "image", int(store.image_of([caption])[0])))
    if alias == "clip":
        return float(unit(alias, "image", image) @ unit(alias, "text", caption))
    members = [int(row) for row in store.captions_of(image) if row != caption]
    if need.aggregation == "sets":
        owner = int(store.image_of([caption])[0])
        left = np.nansum([unit(alias, "text", row) for row in members] or [[np.nan]], axis=0)
        rows = [caption] if owner == image else store.captions_of(owner).tolist()
        right = np.nansum([unit(alias, "text", int(row)) for row in rows], axis=0)
        if not left.any() or not right.any() or np.isnan(unit(alias, "text", caption)).any():
            return float("nan")
        length = np.linalg.norm(right)
        if owner == image:
            alive = [row for row in (unit(alias, "text", int(row)) for row in store.captions_of(image)) if row.any()]
            alive = [row for row in alive if not np.isnan(row).any()]
            length = np.linalg.norm(np.sum(alive, axis=0)) / len(alive)
        return float(np.clip(left @ right / np.linalg.norm(left) / length, -1, 1))
    values = [unit(alias, "text", row) @ unit(alias, "text", caption) for row in members]
    alive = [value for value in values if not np.isnan(value)]
    if not alive:
        return float("nan")
    if need.aggregation == "top2":
        alive = sorted(alive)[-2:]
    return float(max(alive) if need.aggregation == "max" else np.mean(alive))


def test_labels_equal_a_brute_force(store: Store, judged: Judgements) -> None:
    pairs = resolve(store, judged)
    labels = labels_of(store, Relation.I2T)
    assert [str(label) for label in labels] == [
        *("i2t.text", "i2t.text.mean", "i2t.text.top2", "i2t.text.sets", "i2t.clip", "i2i.image", "i2i.clip")
    ]
    for label in labels:
        ours = PairLabels(store, pairs).values(label)
        theirs = [brute(store, label, i, c) for i, c in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)]
        assert ours == pytest.approx(np.array(theirs), abs=1e-6, nan_ok=True), str(label)


def test_a_judged_caption_is_left_out_of_its_own_set(store: Store, judged: Judgements) -> None:
    pairs = resolve(store, judged)
    values = PairLabels(store, pairs).values(BlockRequest(Relation.I2T, "text"))
    full = store.block("i2t", image_rows=pairs.left, caption_rows=pairs.right, alias="text", missing="mask")[0]
    foreign = ~pairs.annotated & np.isfinite(values)
    assert np.array_equal(values[foreign], full.diagonal()[foreign])
    texts = store.captions["text_row"].to_numpy()
    alone = [
        row
        for row in np.flatnonzero(pairs.annotated)
        if (texts[store.captions_of(int(pairs.left[row]))] == texts[pairs.right[row]]).sum() == 1
    ]
    assert alone
    assert not (values[alone] == 1).any()


def test_card_lines_share_their_pairs_and_order_the_teachers(store: Store, judged: Judgements) -> None:
    card = agreement_card(store, [judged], replicates=20, fusions=["mean(of=['i2t.text', 'i2t.clip'])"])
    for subset in ("all", "unannotated"):
        rows = [row for row in card.rows if row.subset == subset]
        assert len({row.pairs for row in rows}) == 1
        best = max(rows, key=lambda row: row.figures["spearman"].value)
        assert best.label.startswith("i2t.text")
    assert "i2t.text" in card.recommendation[0]
    assert card.frame.height == len(card.rows) * 4
    json.dumps(card.to_json(), allow_nan=False)


def test_a_reduced_precision_is_compared_with_float32_in_pairs(
    store: Store, judged: Judgements, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = {
        "text": "minilm()",
        "image": "efficientnet_lite(size=2)",
        "clip": "minilm(precision='bfloat16')",
    }
    monkeypatch.setattr(type(store.manifest), "teacher_specs", property(lambda _: specs))
    card = agreement_card(store, [judged], replicates=20)
    lines = {(row.subset, row.label): row for row in card.rows}
    found = [row for row in card.rows if row.kind == "difference"]
    assert {(row.subset, row.label) for row in found} == {
        (subset, "i2t.clip - i2t.text") for subset in ("all", "unannotated")
    }
    for row in found:
        low, full = lines[row.subset, "i2t.clip"], lines[row.subset, "i2t.text"]
        for name, figure in row.figures.items():
            assert figure.value == low.figures[name].value - full.figures[name].value
            paired = low.figures[name].replicates - full.figures[name].replicates
            assert (figure.low, figure.high) == pytest.approx(tuple(np.nanquantile(paired, [0.025, 0.975])))
    assert not any(" - " in sentence for sentence in card.recommendation)


def bootstrapped(
    scores: np.ndarray, ratings: np.ndarray, units: Sequence[Sequence[int]], times: int, seed: int
) -> tuple[float, float]:
    """Ends of the 95 % interval of Spearman's rho: as many `units` (of pairs) as there are, drawn with replacement."""
    stats = pytest.importorskip("scipy.stats")
    draw = np.random.default_rng(seed)
    values = []
    for _ in range(times):
        rows = [row for unit in draw.choice(len(units), len(units)) for row in units[unit]]
        values.append(stats.spearmanr(scores[rows], ratings[rows]).statistic)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("kinds", [("image", "caption"), ("caption", "image")])
def test_the_bootstrap_draws_images_not_pairs(tmp_path: Path, kinds: tuple[Kind, Kind]) -> None:
    """Ten images, all 50 captions each. People agree with the label on five images and say the opposite on the others.

    So nearly all the uncertainty is which images were judged: an interval over images is several times as wide as one
    over pairs. The image of a pair is that of its left item.
    """
    store = labelgen.open(make_store(tmp_path / "s", n_images=10, captions_per_image=5, lists=False))
    forward = kinds[0] == "image"
    lefts, rights = (10, 50) if forward else (50, 10)
    pairs = [(left, right) for left in range(lefts) for right in range(rights)]
    image_of_left = [left if forward else left // 5 for left, _ in pairs]
    need = BlockRequest(Relation.I2T, "text")
    scores = np.array([brute(store, need, *(pair if forward else pair[::-1])) for pair in pairs])
    draw = np.random.default_rng(0)
    side = np.array([1 if image < 5 else -1 for image in image_of_left])
    ratings = np.round(side * scores * 8 + draw.normal(0, 0.3, len(pairs)), 1) + 20
    names = (store.image_ids, store.caption_ids) if forward else (store.caption_ids, store.image_ids)
    ids = [names[half]([pair[half] for pair in pairs]) for half in (0, 1)]
    judgements = Judgements(
        "made",
        "made",
        Relation.I2T if forward else Relation.T2I,
        kinds,
        "graded",
        graded_frame(*ids, ratings),
        None,
        "",
    )
    card = agreement_card(store, [judgements], replicates=400)
    row = next(row for row in card.rows if row.label.endswith(".text") and row.subset == "all")
    assert (row.pairs, row.images) == (500, 10)
    found = row.figures["spearman"]
    by_image = [[n for n, image in enumerate(image_of_left) if image == wanted] for wanted in range(10)]
    low, high = bootstrapped(scores, ratings, by_image, 400, seed=1)
    narrow_low, narrow_high = bootstrapped(scores, ratings, [[n] for n in range(len(pairs))], 400, seed=1)
    assert high - low > 3 * (narrow_high - narrow_low), "the data tells the two kinds of bootstrap apart"
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.2), pytest.approx(high, abs=0.2))


def test_retrieval_intervals_draw_the_queries(tmp_path: Path) -> None:
    """Images ask for captions; mAP@R of ten images and an interval over them, by a plain bootstrap of ten numbers."""
    store = labelgen.open(make_store(tmp_path / "s", n_images=13, captions_per_image=5, lists=False))
    images = range(len(store.splits["train"]))
    frame = graded_frame(
        [f"img-{image}" for image in images for _ in range(3)],
        [f"cap-{5 * image + 5 * place + place}" for image in images for place in range(3)],
        [1.0] * (3 * len(images)),
    )
    judgements = Judgements("p", "p", Relation.I2T, ("image", "caption"), "positives", frame, 1.0, "p")
    pairs = resolve(store, judgements)
    answers = answers_of(store, pairs)
    (measured,) = list(retrieval_values(store, [BlockRequest(Relation.I2T, "text")], pairs.relation, answers))[-1]
    per_query = measured["with annotated", "map_at_r"][0]
    draw = np.random.default_rng(3)
    means = [per_query[draw.integers(0, len(per_query), len(per_query))].mean() for _ in range(2000)]
    card = agreement_card(store, [judgements], replicates=2000)
    row = next(row for row in card.rows if row.label == "i2t.text" and row.subset == "with annotated")
    figure = row.figures["map_at_r"]
    assert figure.value == pytest.approx(per_query.mean())
    assert (figure.low, figure.high) == (
        pytest.approx(float(np.quantile(means, 0.025)), abs=0.03),
        pytest.approx(float(np.quantile(means, 0.975)), abs=0.03),
    )


def test_fit_reports_on_the_other_half(store: Store, judged: Judgements) -> None:
    card = agreement_card(store, [judged], fit=True, replicates=10)
    pairs = resolve(store, judged)
    first, second = pairs.half("first"), pairs.half("second")
    assert len(first) + len(second) == len(pairs)
    assert not set(first.left.tolist()) & set(second.left.tolist())
    assert max(row.pairs for row in card.rows) <= len(second)
    names = {row.label.partition("(")[0] for row in card.rows if row.kind == "fusion"}
    assert names == {"mean", "maximum", "agreement", "reciprocal_rank", "logistic", "text_image_cross"}
    for row in card.rows:
        if row.kind == "fusion":
            assert str(fusion(row.label).spec) == row.label


def test_ids_are_found_however_they_are_written(tmp_path: Path) -> None:
    store = labelgen.open(make_store(tmp_path / "s", n_images=4))
    store._frames[f"{store.manifest.corpus.path}/images.parquet"] = store.images.with_columns(
        pl.Series("file", ["COCO_val2014_000000000042.jpg", "a/1000_b0e.jpg", "x.png", None])
    )
    values = ["42", "COCO_val2014_000000000042.jpg", "1000_b0e", "1000_b0e.jpg", "img-3", "nobody"]
    frame = graded_frame(values, ["cap-0"] * 6, [1.0] * 6)
    found = resolve(store, Judgements("x", "x", Relation.I2T, ("image", "caption"), "graded", frame, None, "x"))
    assert found.left.tolist() == [0, 0, 1, 1, 3]
    assert found.unknown == 1


def test_nothing_in_common_is_an_error(store: Store) -> None:
    frame = graded_frame(["nobody"], ["nothing"], [1.0])
    with pytest.raises(UnknownIdError, match="none of the 1 judged pairs"):
        resolve(store, Judgements("x", "x", Relation.I2T, ("image", "caption"), "graded", frame, None, "x"))


def test_judged_pairs_that_are_all_annotated_have_one_line_a_label(store: Store) -> None:
    """Without an unannotated pair there is nothing to draw for that subset."""
    image, caption = store.images["image_id"][0], store.captions["caption_id"][0]
    frame = graded_frame([image], [caption], [3.0])
    only = Judgements("made", "made", Relation.I2T, ("image", "caption"), "graded", frame, 5.0, "made")
    card = agreement_card([store], [only], replicates=2)
    assert {line.subset for line in card.rows} == {"all"}
    assert all(line.pairs == 1 for line in card.rows)


def test_sentences_are_captions_where_they_can_be(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = store.captions["text"].to_list()
    frame = graded_frame([texts[0], texts[0]], [texts[1], "quite new"], [1.0, 2.0])
    pairs = resolve(store, Judgements("sts", "x", Relation.T2T, ("text", "text"), "graded", frame, None, "x"))
    assert pairs.sentences == ("quite new",)
    assert pairs.right.tolist()[1] == -1
    same_as = store.embeddings("text").take(np.array([2]))
    monkeypatch.setattr("labelgen.audit.card.labels.encode_sentences", lambda spec, texts: same_as)
    values = PairLabels(store, pairs).values(BlockRequest(Relation.T2T, "text"))
    block = store.block("t2t", caption_rows=[0, 1, 2], alias="text")
    first = [texts.index(texts[0]), texts.index(texts[1])]
    assert values.tolist() == [store.block("t2t", caption_rows=first, alias="text")[0, 1], block[0, 2]]


def test_two_captions_as_sets(store: Store) -> None:
    """Of two images: the cosine of the sums; of one image the mean of each with the sum of the others."""
    rows = [0, 1, 2, 8]
    ids = store.caption_ids(rows)
    texts = np.asarray(store.embeddings("text", "text")).astype(np.float64)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    owners = store.image_of(rows).tolist()
    assert owners[0] == owners[1] == owners[2] != owners[3]
    frame = graded_frame([ids[0], ids[0]], [ids[1], ids[3]], [3.0, 1.0])
    pairs = resolve(store, Judgements("t", "t", Relation.T2T, ("caption", "caption"), "graded", frame, None, "t"))
    values = PairLabels(store, pairs).values(BlockRequest(Relation.T2T, "text", "sets"))

    def cosine(left: np.ndarray, right: np.ndarray) -> float:
        return float(left @ right / np.sqrt((left @ left) * (right @ right)))

    length = np.linalg.norm(unit[[0, 1, 2]].sum(axis=0)) / 3
    both = cosine(unit[0], unit[1] + unit[2]) / length, cosine(unit[1], unit[0] + unit[2]) / length
    same = (min(both[0], 1) + min(both[1], 1)) / 2
    other = cosine(unit[[0, 1, 2]].sum(axis=0), unit[store.captions_of(owners[3])].sum(axis=0))
    assert values == pytest.approx([same, other], abs=1e-6)
    card = agreement_card(store, replace(pairs.judgements), replicates=2)
    assert any("t2t.text.centred.sets" in row.label for row in card.rows)


def test_ranked_by_hand() -> None:
    """Scores .9 .8 .7 .6; right are the first and the third of them, then with ties."""

    def ranked(scores: Float64, right: Int64) -> tuple[float, float, float]:
        return ranked_twice(scores, right, np.empty(0, np.int64))[0]

    scores = np.array([0.6, 0.9, 0.7, 0.8])
    assert ranked(scores, np.array([1, 2])) == (0.5, 0.5, 1.0)  # first two are 1 and 3: one hit, at the top
    assert ranked(scores, np.array([3])) == (0.0, 0.0, 0.0)
    assert ranked(scores, np.array([1, 3])) == (1.0, 1.0, 1.0)
    assert ranked(scores, np.array([0, 1, 2])) == pytest.approx(((1 + 2 / 3) / 3, 2 / 3, 1.0))
    assert ranked(np.zeros(4), np.array([0])) == (1.0, 1.0, 1.0)  # equal scores by row
    assert ranked(np.zeros(4), np.array([3])) == (0.0, 0.0, 0.0)
    assert ranked(scores, np.arange(4)) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("relation", [Relation.I2T, Relation.T2I])
def test_retrieval_equals_a_plain_ranking(store: Store, relation: Relation) -> None:
    """Positives drawn at random; every label ranked again from brute force labels of all pairs."""
    draw = np.random.default_rng(1)
    part = store.splits["train"]
    images = np.arange(part.start, part.stop)
    captions = np.concatenate([store.captions_of(int(image)) for image in images])
    forward = relation is Relation.I2T
    queries, pool = (images, captions) if forward else (captions, images)
    pairs_of = [(int(query), int(item)) for query in queries for item in draw.choice(pool, 3, replace=False)]
    names = (store.image_ids, store.caption_ids) if forward else (store.caption_ids, store.image_ids)
    frame = graded_frame(
        names[0]([query for query, _ in pairs_of]), names[1]([item for _, item in pairs_of]), [1.0] * len(pairs_of)
    )
    kinds = ("image", "caption") if forward else ("caption", "image")
    pairs = resolve(store, Judgements("p", "p", relation, kinds, "positives", frame, 1.0, "p"))  # type: ignore[arg-type]
    answers = answers_of(store, pairs)
    labels = labels_of(store, relation)
    *_, measured = retrieval_values(store, labels, relation, answers)
    for label, found in zip(labels, measured, strict=True):
        for subset in ("with annotated", "without annotated"):
            hits = []
            for query in answers.queries.tolist():
                scores = np.array(
                    [brute(store, label, *((query, item) if forward else (item, query))) for item in pool]
                )
                own = [
                    n
                    for n, item in enumerate(pool)
                    if (store.image_of([item if forward else query])[0] == (query if forward else item))
                ]
                right = [n for n, item in enumerate(pool) if (query, int(item)) in set(pairs_of)]
                scores = np.where(np.isnan(scores), -np.inf, scores)
                if subset == "without annotated":
                    scores[own] = -np.inf
                    right = [n for n in right if n not in own]
                if right:
                    order = np.lexsort((np.arange(len(pool)), -scores.astype(np.float32)))
                    hits.append(float(order[0] in right))
            values, asked = found[subset, "r_at_1"]
            assert values[asked].mean() == pytest.approx(np.mean(hits)), (str(label), subset)


def test_two_stores_stand_in_one_table(store: Store, judged: Judgements, tmp_path: Path) -> None:
    other = make_store(tmp_path / "b", n_images=20, captions_per_image=[3, 1, 4, 2, 0] * 4, seed=7)
    spec = "mean(of=['i2t.text', 'i2t.clip'])"
    card = agreement_card([store, other], [judged], replicates=5, fusions=[spec])
    assert {row.store for row in card.rows} == {"a", "b"}
    assert any("is skipped" in note for note in card.notes)
    with pytest.raises(ConfigError, match="no teacher"):
        agreement_card(other, [judged], replicates=5, fusions=[spec])


def test_command(store: Store, judged: Judgements, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    judged.frame.rename({"left": "image_id", "right": "caption_id"}).write_parquet(path)
    assert read_judgements(path).positive_from is None
    run = CliRunner()
    shown = run.invoke(cli, ["card", str(store.path), "--against", str(path), "--bootstrap", "5", "--fit"])
    assert shown.exit_code == 0, shown.output
    assert "Spearman" in shown.output
    assert "agrees best" in shown.output
    answer = run.invoke(cli, ["card", str(store.path), "--against", f"ratings={path}", "--bootstrap", "5", "--json"])
    rows = json.loads(answer.stdout)["rows"]
    assert rows[0]["figures"]["auc"] == {"value": None, "low": None, "high": None}
    refused = run.invoke(cli, ["card", str(store.path), "--against", str(tmp_path / "absent")])
    assert refused.exit_code == 3


@pytest.mark.shared
def test_known_figures_of_flickr8k(shared_data: Path) -> None:
    """MiniLM's caption sets on the experts, where a store of the real set lies beside the data."""
    path = shared_data.parent.parent / "stores" / "flickr8k"
    if not (path / "manifest.json").is_file():
        pytest.skip("needs a built store of Flickr8k beside the checkout")
    card = agreement_card(path, [shared_data / "flickr8k" / "ExpertAnnotations.txt"], replicates=5)
    row = next(row for row in card.rows if row.label == "i2t.text" and row.subset == "unannotated")
    assert row.figures["auc"].value == pytest.approx(0.957, abs=0.001)
    assert row.figures["average_precision"].value == pytest.approx(0.718, abs=0.001)


def test_advice_tells_tasks_apart() -> None:
    """One label is best for ratings, the other one for queries with many right answers."""

    def row(file: str, label: str, measure: str, value: float) -> CardRow:
        figures = {measure: Figure.of(np.array([value]))}
        return CardRow("s", file, "", "i2t", label, "teacher", "all", 9, 9, 0, figures)

    graded = [row("graded", "a", "spearman", 0.8), row("graded", "b", "spearman", 0.7)]
    listed = [row("listed", "a", "map_at_r", 0.2), row("listed", "b", "map_at_r", 0.3)]
    assert [line for line in advice([*graded, *listed]) if "depends on the task" in line]
    assert not [line for line in advice([*graded, listed[0]]) if "depends on the task" in line]
