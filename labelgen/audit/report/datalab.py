"""Export to cleanlab's Datalab: neighbor lists as its graph, and findings as its issues.

Datalab builds a graph of nearest neighbors before it looks for near duplicates, outliers and dependent data; a store
has one already, exact and within splits. cleanlab itself is not needed here::

    graph = knn_graph(store, "t2t")
    lab = Datalab({"caption": graph.texts(store)})
    lab.find_issues(knn_graph=graph.matrix, issue_types={"near_duplicate": {}, "outlier": {}})
    lab.get_issues().join(issues(store, graph).to_pandas())
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labelgen.audit.corpus_view import View, read_lists
from labelgen.errors import ConfigError, requires
from labelgen.types import Float32, Int64, Relation, Scope

if TYPE_CHECKING:
    import polars as pl

    from labelgen.store.reader import Store

#: A pair with a larger suspicion is an issue: probably replaced, if errors are captions swapped at random.
SUSPECT = 0.5


@dataclass(frozen=True)
class KnnGraph:
    """Neighbors with distances 1 - similarity.

    Attributes:
        matrix: scipy CSR [n, n], the same number of entries in every row, nearest first (explicit zeros for equal
            items), as `knn_graph` of `Datalab.find_issues` must be.
        rows: caption or image row of the store of every row of the matrix, int64 [n]: items without an embedding or
            without neighbors are left out.
        relation: `t2t` or `i2i`.
    """

    matrix: Any
    rows: Int64
    relation: Relation

    def ids(self, store: Store) -> list[str]:
        """Return caption or image ids, [n]."""
        return store.caption_ids(self.rows) if self.relation is Relation.T2T else store.image_ids(self.rows)

    def texts(self, store: Store) -> list[str]:
        """Return captions, [n]; of an image its first one."""
        captions = self.rows if self.relation is Relation.T2T else np.asarray(store.offsets)[self.rows]
        return list(store.captions["text"].gather(captions))


def knn_graph(store: Store, relation: str = "t2t", *, k: int = 10, scope: Scope = "split") -> KnnGraph:
    """Return the graph of a list, cut to `k` neighbors or the length of the shortest list.

    Neighbors of a caption are captions of other images, so the captions of one image are not near duplicates of each
    other. No edge crosses splits with the scope `split`.

    Raises:
        ConfigError: another relation, or no such list.
        MissingExtraError: scipy is not installed.
    """
    wanted = Relation(relation)
    if wanted not in (Relation.T2T, Relation.I2I) or k < 1:
        raise ConfigError(f"a graph of {relation}, k={k}", expected="t2t or i2i, and at least one neighbor")
    lists = read_lists(store, wanted, k=k, scope=scope)
    if lists is None:
        raise ConfigError(f"this store has no list {relation}", todo=f"build one: --add-relation {relation}")
    with requires("scipy", "audit", "knn_graph"):
        from scipy.sparse import csr_matrix
    counts = (lists.ids >= 0).sum(axis=1)
    rows = np.flatnonzero(counts).astype(np.int64)
    width = int(counts[rows].min(initial=k))
    place = np.full(len(counts), -1, np.int64)
    place[rows] = np.arange(len(rows))
    columns = place[lists.ids[rows, :width]]
    distances: Float32 = np.maximum(np.float32(1) - lists.scores[rows, :width], np.float32(0)).astype(np.float32)
    # int32, as in scikit-learn's graphs: parts of cleanlab refuse others
    kind = np.int32 if len(rows) * width < 2**31 else np.int64
    pointers = (np.arange(len(rows) + 1) * width).astype(kind)
    shape = (len(rows), len(rows))
    matrix = csr_matrix((distances.ravel(), columns.ravel().astype(kind), pointers), shape=shape)
    return KnnGraph(matrix, rows, wanted)


def issues(store: Store, graph: KnnGraph, *, threshold: float = 0.95) -> pl.DataFrame:
    """Return findings about the captions of a graph as columns of Datalab's issues, one row a row of the graph.

    Returns:
        `caption_id`, `image_id`; `is_noisy_pair_issue`, `noisy_pair_score` (1 - suspicion, see `noisy_pairs`);
        `is_near_duplicate_caption_issue`, `near_duplicate_caption_score` (1 - the best similarity within its group, see
        `duplicates`; 1 outside of groups). Scores are in [0, 1]; low ones are suspect, as in Datalab.

    Raises:
        ConfigError: a graph of images, or what `noisy_pairs` and `duplicates` refuse.
    """
    import polars as pl

    from labelgen.audit.checks.duplicates import duplicates
    from labelgen.audit.checks.mismatch import MismatchModel

    if graph.relation is not Relation.T2T:
        raise ConfigError(
            "issues are about captions", found=f"a graph of {graph.relation}", expected="knn_graph(store, 't2t')"
        )
    found = MismatchModel(View.of(store)).find()
    count = store.manifest.corpus.n_captions
    suspicion, likeness = np.zeros(count, np.float32), np.zeros(count, np.float32)
    suspicion[found.captions] = found.suspicion
    groups = duplicates(store, "text", threshold=threshold)
    likeness[groups["caption_row"].to_numpy().astype(np.int64)] = groups["similarity"].to_numpy()
    rows = graph.rows
    return pl.DataFrame(
        {
            "caption_id": store.caption_ids(rows),
            "image_id": store.image_ids(store.image_of(rows)),
            "is_noisy_pair_issue": suspicion[rows] > SUSPECT,
            "noisy_pair_score": 1 - suspicion[rows],
            "is_near_duplicate_caption_issue": likeness[rows] > 0,
            "near_duplicate_caption_score": np.clip(1 - likeness[rows], 0, 1),
        }
    )
