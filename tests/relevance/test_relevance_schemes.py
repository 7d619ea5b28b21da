"""Schemes: their targets from small blocks, their text, what they refuse."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from labelgen import registry
from labelgen.errors import ArrayError, ConfigError, SpecError, UnknownNameError
from labelgen.relevance import fine_grained
from labelgen.relevance.base import BlockRequest, Blocks, Scheme, SoftLabels, scheme
from labelgen.specs import Spec
from labelgen.types import Float32, Relation

I2T, T2T, I2I = BlockRequest(Relation.I2T), BlockRequest(Relation.T2T), BlockRequest(Relation.I2I)
#: Image rows of three pairs; the first two are two captions of one image.
ROWS = np.array([5, 5, 8])
R = np.array([[1, 1, 0.4], [1, 1, 0.4], [-0.2, 0.6, 1]], np.float32)
A = np.array([[1, 1, 0.2], [1, 1, 0.2], [0.2, 0.2, 1]], np.float32)
T = np.array([[1, 0.7, -0.2], [0.7, 1, 0.6], [-0.2, 0.6, 1]], np.float32)
TABLE = {0.0: -1.0, 0.5: 0.1, 1.0: 0.9}

TEXTS = [
    "bcls()",
    "bcls(aggregation='mean', text='minilm')",
    "bcls(label='i2i')",
    "bcls(transform=['relu()', 'softmax(relevance_temperature=0.1)'])",
    "rsc()",
    "rsc(transform='relu')",
    "cusa()",
    "cusa(image='unicom', mode='add')",
    "fine_grained()",
    "fine_grained(aggregation='max_other', gamma=0.5)",
    "language_margin()",
    "language_margin(percentile=70.0)",
    "blend(of=['bcls()', 'rsc()'])",
    "blend(how='geometric_mean', of=['cusa()', \"bcls(transform='relu')\"], weights=[2.0, 1.0])",
]


def blocks(rows: np.ndarray = ROWS, **others: object) -> Blocks:
    return Blocks({I2T: R, T2T: T, I2I: A}, rows, rows, quantiles={I2T: TABLE}, **others)  # type: ignore[arg-type]


def made(text: str, **others: object) -> SoftLabels:
    return scheme(text).relevance(blocks(**others))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", TEXTS)
def test_print_is_parse(text: str) -> None:
    first = scheme(text)
    assert isinstance(first, Scheme)
    assert str(first.spec) == str(Spec.parse(text)) == text
    assert scheme(str(first.spec)) == first
    assert scheme(first) is first
    assert hash(first) == hash(scheme(first.spec))
    assert first.quantiles <= first.needs
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize(
    "text", ["bcls", "rsc", "cusa", "cusa(mode='dot')", "fine_grained", "language_margin", TEXTS[-1]]
)
def test_every_scheme_gives_new_float32_and_reads_what_it_needs_only(text: str) -> None:
    wanted = scheme(text)
    given = blocks()
    enough = Blocks(
        {need: block.copy() for need, block in given.similarities.items() if need in wanted.needs},
        ROWS,
        ROWS,
        quantiles=dict.fromkeys(wanted.quantiles, TABLE),
    )
    soft = wanted.relevance(enough)
    assert soft.relevance.dtype == np.float32
    assert soft.relevance.shape == soft.where.shape == soft.same_image.shape == (3, 3)
    assert soft.where.all()
    np.testing.assert_array_equal(soft.same_image, ROWS[:, None] == ROWS)
    np.testing.assert_array_equal(soft.image_rows, ROWS)
    for need, block in enough.similarities.items():
        np.testing.assert_array_equal(block, given.similarities[need])
        with pytest.raises(ConfigError, match="there is no block"):
            wanted.relevance(Blocks({}, ROWS, ROWS))


def test_the_registry_has_them() -> None:
    assert {"bcls", "rsc", "cusa", "fine_grained", "language_margin", "blend"} <= set(registry.names("scheme"))
    with pytest.raises(UnknownNameError, match="bcls"):
        scheme("bcl")
    with pytest.raises(SpecError, match="mode"):
        scheme("cusa(mdoe='add')")


def test_bcls() -> None:
    soft = made("bcls")
    np.testing.assert_array_equal(soft.relevance, R)
    np.testing.assert_array_equal(soft.i2t, R)
    assert soft.relevance_t2i is None
    np.testing.assert_array_equal(made("bcls(label='i2i')").relevance, A)


def test_own_pairs_are_one_whatever_the_aggregation() -> None:
    """The mean over an image's captions is below 1 for its own; aligned: the diagonal, else all pairs of an image."""
    need = BlockRequest(Relation.I2T, None, "mean")
    mean = R * np.float32(0.9)
    soft = scheme("bcls(aggregation='mean')").relevance(Blocks({need: mean}, ROWS, ROWS))
    np.testing.assert_array_equal(soft.relevance.diagonal(), 1)
    assert soft.relevance[0, 1] == np.float32(0.9)
    np.testing.assert_array_equal(soft.i2t, mean)
    soft = scheme("bcls(aggregation='mean')").relevance(Blocks({need: mean[:2]}, ROWS[:2], ROWS))
    np.testing.assert_array_equal(soft.relevance, np.where([[1, 1, 0], [1, 1, 0]], 1, mean[:2]))


def test_rsc() -> None:
    """(1 + R) / 2."""
    np.testing.assert_allclose(made("rsc").relevance, [[1, 1, 0.7], [1, 1, 0.7], [0.4, 0.8, 1]])
    np.testing.assert_allclose(made("rsc(transform='relu')").relevance[2], [0, 0.6, 1])
    assert made("rsc(transform='percentile')").relevance[2, 0] == pytest.approx(0.5 * 0.8 / 1.1)


def test_cusa() -> None:
    each, add, dot = (made(f"cusa(mode='{mode}')") for mode in ("each", "add", "dot"))
    np.testing.assert_array_equal(each.relevance, A)
    np.testing.assert_array_equal(each.relevance_t2i, T)
    np.testing.assert_allclose(add.relevance, (A + T) / 2)
    np.testing.assert_allclose(dot.relevance, np.sqrt(np.maximum(A, 0) * np.maximum(T, 0)), atol=1e-7)
    for soft in (each, add, dot):
        np.testing.assert_array_equal(soft.i2i, A)
        np.testing.assert_array_equal(soft.t2t, T)
    assert add.relevance_t2i is None


def test_row_transforms_are_applied_to_the_rows_of_the_transpose() -> None:
    soft = made("bcls(transform='softmax(relevance_temperature=0.5)')")
    assert soft.relevance_t2i is not None
    np.testing.assert_allclose(soft.relevance.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(soft.relevance_t2i.sum(axis=1), 1, rtol=1e-6)
    assert not np.allclose(soft.relevance_t2i, soft.relevance.T)


def test_fine_grained() -> None:
    """s = clip(R, 0, 1); positives weigh 1 + gamma (1 - s), negatives 1 + gamma s."""
    soft = made("fine_grained(gamma=2.0)")
    np.testing.assert_allclose(soft.relevance, np.clip(R, 0, 1))
    np.testing.assert_allclose(soft.weights, [[1, 1, 1.8], [1, 1, 1.8], [1, 2.2, 1]], rtol=1e-6)
    np.testing.assert_array_equal(made("fine_grained(gamma=0)").weights, 1)
    target = made("fine_grained(mode='target')")
    np.testing.assert_allclose(target.relevance, [[1, 1, 0.2], [1, 1, 0.2], [0, 0.3, 1]], rtol=1e-6)
    assert target.weights is None
    with pytest.raises(ArrayError):
        fine_grained.pair_weights(R, R[0] > 0)


def test_fine_grained_labels_of_explicit_pairs() -> None:
    similarity, positives = np.float32([0.25, 0.25, -0.5]), np.array([True, False, False])
    np.testing.assert_allclose(fine_grained.pair_weights(similarity, positives), [1.75, 1.25, 1])
    np.testing.assert_allclose(fine_grained.pair_targets(similarity, positives), [0.625, 0.125, 0])


def test_language_margin() -> None:
    soft = made("language_margin(percentile=75)")
    assert soft.threshold == pytest.approx(0.5)
    np.testing.assert_array_equal(soft.relevance, R)
    with pytest.raises(ConfigError, match="quantile table"):
        scheme("language_margin").relevance(Blocks({I2T: R}, ROWS, ROWS))


def test_blend_is_the_mean_of_targets() -> None:
    soft = made("blend(of=['bcls()', 'cusa()'], weights=[1.0, 3.0])")
    np.testing.assert_allclose(soft.relevance, (R + 3 * A) / 4, rtol=1e-6)
    np.testing.assert_allclose(soft.relevance_t2i, (R.T + 3 * T) / 4, rtol=1e-6)
    np.testing.assert_array_equal(soft.i2t, R)
    np.testing.assert_array_equal(soft.t2t, T)
    symmetric = made("blend(of=['bcls()', 'rsc()'], how='geometric_mean')")
    assert symmetric.relevance_t2i is None


def test_missing_items_are_masked_through() -> None:
    where = np.ones((3, 3), bool)
    where[1] = where[:, 1] = False
    soft = scheme("bcls(transform='softmax')").relevance(blocks(where=where))
    np.testing.assert_array_equal(soft.where, where)
    np.testing.assert_array_equal(soft.relevance[1], 0)


@pytest.mark.parametrize(
    "text",
    [
        "bcls(label='t2t')",
        "bcls(aggregation='min')",
        "cusa(mode='sum')",
        "cusa(transform='percentile')",
        "fine_grained(mode='x')",
        "fine_grained(gamma=-1)",
        "language_margin(percentile=101)",
        "language_margin(aggregation='first')",
        "blend(of=[])",
        "blend(of='bcls()')",
        "blend(of=['bcls()'], weights=[1, 2])",
        "blend(of=['bcls()'], how='median')",
        "bcls(transform='relo')",
    ],
)
def test_wrong_options_are_refused_before_any_block_is_made(text: str) -> None:
    with pytest.raises(ConfigError):
        scheme(text)


@pytest.mark.parametrize("text", ["cusa", "bcls(label='i2i')"])
def test_labels_of_one_side_need_aligned_batches(text: str) -> None:
    given = Blocks({I2I: A, T2T: T}, ROWS, ROWS[::-1])
    with pytest.raises(ArrayError, match="of one batch of pairs"):
        scheme(text).relevance(given)


def test_values_are_frozen_and_checked() -> None:
    soft = made("bcls")
    with pytest.raises(FrozenInstanceError):
        soft.relevance = R  # type: ignore[misc]
    with pytest.raises(ArrayError, match="weights has the wrong shape"):
        SoftLabels(relevance=R, same_image=R > 0, where=R > 0, image_rows=ROWS, weights=R[0])
    with pytest.raises(ArrayError, match="block t2t has the wrong shape"):
        Blocks({T2T: T[:2]}, ROWS, ROWS)
    with pytest.raises(ConfigError):
        BlockRequest(Relation.T2I)
    with pytest.raises(ConfigError):
        BlockRequest(Relation.T2T, None, "mean")
    assert str(BlockRequest(Relation.I2T, "clip", "mean")) == "i2t.clip.mean"


def test_soft_labels_map_every_array() -> None:
    doubled: list[str] = []

    def twice(array: Float32) -> Float32:
        doubled.append(str(array.dtype))
        return array

    soft = made("cusa")
    mapped = soft.map(twice)
    assert len(doubled) == len(soft.arrays()) == 7
    assert mapped.threshold is None


def test_the_text_half_of_a_batch_that_is_no_square() -> None:
    """Two images, three captions, one entry that does not count: the half of the captions has columns for its rows.

    Softmax of every caption over the images that count, worked out entry by entry. `drop_diagonal` sets own pairs to 0
    first: caption 2 is of image 1.
    """
    similarity = np.array([[0.1, 0.4, 0.9], [0.3, -0.2, 0.5]], np.float32)
    where = np.array([[True, True, False], [True, True, True]])
    given = Blocks({I2T: similarity}, np.array([5, 8]), np.array([6, 7, 8]), where)
    soft = scheme("bcls(transform=['drop_diagonal', 'softmax'])").relevance(given)
    numbers = similarity.astype(float)
    numbers[1, 2] = 0  # an own pair
    for caption in range(3):
        images = [image for image in range(2) if where[image, caption]]
        total = sum(np.exp(numbers[image, caption]) for image in images)
        for image in range(2):
            expected = np.exp(numbers[image, caption]) / total if image in images else 0
            assert soft.relevance_t2i is not None
            assert soft.relevance_t2i[caption, image] == pytest.approx(expected, rel=1e-5)
    for image in range(2):
        captions = [caption for caption in range(3) if where[image, caption]]
        total = sum(np.exp(numbers[image, caption]) for caption in captions)
        for caption in captions:
            assert soft.relevance[image, caption] == pytest.approx(np.exp(numbers[image, caption]) / total, rel=1e-5)


def test_similarities_beside_the_targets_are_as_they_were() -> None:
    """`i2t` of every scheme is the block it was given, own pairs included: with a mean they are not 1."""
    mean = BlockRequest(Relation.I2T, None, "mean")
    similarity = np.array([[0.6, 0.1, 0.2], [0.3, 0.7, 0.0], [0.2, 0.4, 0.5]], np.float32)
    rows = np.array([1, 2, 3])
    given = Blocks({mean: similarity}, rows, rows, quantiles={mean: TABLE})
    for text in ("bcls(aggregation='mean')", "language_margin(aggregation='mean')", "fine_grained(aggregation='mean')"):
        np.testing.assert_array_equal(scheme(text).relevance(given).i2t, similarity, err_msg=text)
    for text in ("bcls(aggregation='mean')", "language_margin(aggregation='mean')"):
        np.testing.assert_array_equal(scheme(text).relevance(given).relevance.diagonal(), [1, 1, 1], err_msg=text)
