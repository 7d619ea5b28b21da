"""Graphs and issues for cleanlab's Datalab, tried with Datalab itself, and the folder that FiftyOne imports."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import labelgen
from labelgen import audit
from labelgen.audit.report.datalab import issues, knn_graph
from labelgen.audit.report.fiftyone_export import write_fiftyone
from labelgen.errors import ConfigError
from labelgen.store.reader import Store
from labelgen.testing.stores import make_store


@pytest.fixture(scope="module")
def store(demo_store: Path) -> Store:
    return labelgen.open(demo_store)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Rows without an embedding, an image without captions, a split with three images."""
    path = tmp_path_factory.mktemp("graph") / "s"
    sizes = (5, 2, 0, 1, 7, 3, 4, 2, 3, 3, 3, 3)
    made = make_store(path, captions_per_image=sizes, k=4, missing_images=[5], missing_captions=[3])
    return labelgen.open(made)


@pytest.mark.parametrize("relation", ["t2t", "i2i"])
def test_graph_is_the_list(uneven: Store, relation: str) -> None:
    graph = knn_graph(uneven, relation)
    listed = uneven.neighbors(relation)
    living = np.flatnonzero((listed.scores > -np.inf).any(axis=1))
    width = int((listed.scores[living] > -np.inf).sum(axis=1).min())
    assert graph.rows.tolist() == living.tolist()
    assert graph.matrix.shape == (len(living), len(living))
    assert np.diff(graph.matrix.indptr).tolist() == [width] * len(living)
    ids, distances = graph.matrix.indices.reshape(-1, width), graph.matrix.data.reshape(-1, width)
    assert np.array_equal(graph.rows[ids], listed.rows[living, :width])
    assert np.allclose(distances, np.maximum(1 - listed.scores[living, :width], 0))
    assert (np.diff(distances, axis=1) >= 0).all()
    assert graph.ids(uneven) == (uneven.caption_ids(living) if relation == "t2t" else uneven.image_ids(living))


def test_other_graphs_are_refused(uneven: Store, tmp_path: Path) -> None:
    for wrong in ({"relation": "i2t"}, {"k": 0}):
        with pytest.raises(ConfigError, match="t2t or i2i"):
            knn_graph(uneven, **wrong)  # type: ignore[arg-type]
    bare = labelgen.open(make_store(tmp_path / "bare", lists=False))
    with pytest.raises(ConfigError, match="no list t2t"):
        knn_graph(bare)
    with pytest.raises(ConfigError, match="about captions"):
        issues(uneven, knn_graph(uneven, "i2i"))


def test_issues_are_the_findings(store: Store) -> None:
    graph = knn_graph(store)
    frame = issues(store, graph, threshold=0.8)
    assert frame["caption_id"].to_list() == graph.ids(store)
    noisy = audit.noisy_pairs(store)
    suspicion = dict(zip(noisy["caption_id"], noisy["suspicion"], strict=True))
    assert np.allclose(frame["noisy_pair_score"], [1 - suspicion[item] for item in frame["caption_id"]])
    assert (frame["is_noisy_pair_issue"] == (frame["noisy_pair_score"] < 0.5)).all()
    groups = audit.duplicates(store, "text", threshold=0.8)
    assert groups.height
    assert set(frame.filter("is_near_duplicate_caption_issue")["caption_id"]) == set(groups["caption_id"])
    for name in ("noisy_pair_score", "near_duplicate_caption_score"):
        assert frame[name].is_between(0, 1).all()


@pytest.mark.filterwarnings("ignore")  # of Datalab's own dependencies
def test_datalab_takes_graph_and_issues(store: Store) -> None:
    """Its near duplicates are our nearest neighbours, its issues and ours are one table."""
    cleanlab = pytest.importorskip("cleanlab")
    pytest.importorskip("datasets", reason="needs cleanlab[datalab]")
    graph = knn_graph(store)
    lab = cleanlab.Datalab({"caption": graph.texts(store)}, verbosity=0)
    lab.find_issues(knn_graph=graph.matrix, issue_types={"near_duplicate": {}, "outlier": {}})
    assert set(lab.get_issue_summary()["issue_type"]) == {"near_duplicate", "outlier"}
    found = lab.get_issues("near_duplicate")
    nearest = graph.matrix.data.reshape(len(graph.rows), -1)[:, 0]
    assert np.allclose(found["distance_to_nearest_neighbor"], nearest)
    order = np.argsort(found["near_duplicate_score"], kind="stable")
    assert (np.diff(nearest[order]) >= -1e-6).all()
    joined = lab.get_issues().join(issues(store, graph).to_pandas())
    assert len(joined) == len(graph.rows)
    assert {"is_outlier_issue", "is_noisy_pair_issue"} <= set(joined.columns)


# FiftyOne


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = {
        "false_negatives": audit.false_negatives(store, limit=20),
        "noisy_pairs": audit.noisy_pairs(store, limit=20),
        "duplicate_images": audit.duplicates(store, "image", threshold=0.6),
    }
    return write_fiftyone(store, tmp_path_factory.mktemp("fiftyone") / "set", found)


def test_samples_are_photographs_with_captions_and_findings(store: Store, folder: Path) -> None:
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    fields = json.loads((folder / "metadata.json").read_text())["sample_fields"]
    assert [sample["image_id"] for sample in samples] == store.images["image_id"].to_list()
    assert all(set(sample) == set(fields) for sample in samples)
    for sample in samples[:3]:
        with Image.open(sample["filepath"]) as photo:
            assert photo.size == (sample["metadata"]["width"], sample["metadata"]["height"])
    first = store.captions.filter(store.captions["image_row"] == 0)
    told = samples[0]["captions"]["classifications"]
    assert [(label["label"], label["caption_id"]) for label in told] == first.select("text", "caption_id").rows()
    missed = audit.false_negatives(store, limit=20)
    for sample in samples:
        mine = missed.filter(missed["image_id"] == sample["image_id"])
        labels = sample["false_negatives"]["classifications"]
        assert [label["caption_id"] for label in labels] == mine["caption_id"].to_list()
        ranks = [
            label["rank"]
            for name in ("false_negatives", "noisy_pairs", "duplicate_images")
            for label in sample[name]["classifications"]
        ]
        assert sample["worst_rank"] == (min(ranks) if ranks else None)


def test_what_has_no_photographs(store: Store, uneven: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="photographs of this store"):
        write_fiftyone(uneven, tmp_path / "x", {})
    with pytest.raises(ConfigError, match="hubs have no images"):
        write_fiftyone(store, tmp_path / "x", {"hubs": audit.hubs(store, "t2t")})


def test_fiftyone_reads_it(folder: Path) -> None:
    """The importer of the library itself; it needs no database before a dataset is made."""
    importers = pytest.importorskip("fiftyone.utils.data.importers", reason="needs fiftyone")
    importer = importers.LegacyFiftyOneDatasetImporter(str(folder))
    importer.setup()
    samples = list(importer)
    assert len(samples) == len(importer) > 0
    assert samples[0].captions.classifications[0].caption_id
    assert importer.has_sample_field_schema
