"""Readers of judgements: every layout as its authors publish it, made small by hand, and the real Flickr8k files."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from labelgen import registry
from labelgen.audit.judgements.judgements import JudgementReader, Judgements, read_judgements
from labelgen.errors import DatasetError, UnknownNameError
from labelgen.types import Relation

SITS = """caption,image,agg_score,sampling_method
COCO_val2014:sentid:648388,COCO_val2014_000000431431.jpg,1.8,c2i_intrasim
COCO_val2014:sentid:346617,COCO_val2014_000000302572.jpg,4.99,c2i_intrasim
"""
STS = "caption1,caption2,agg_score,sampling_method\nCOCO_val2014:sentid:98,COCO_val2014:sentid:480512,3.21,c2c_isim\n"
SIS = "image1,image2,agg_score,sampling_method\nCOCO_val2014_000000032001.jpg,COCO_val2014_000000432818.jpg,0.5,i2i\n"
STSB = 'main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl\'s hair.\tA "girl" brushes, hair.\n' * 2


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def rows(found: Judgements) -> list[tuple[str, str, float]]:
    return found.frame.select("left", "right", "rating").rows()


def test_sits_puts_the_image_left(tmp_path: Path) -> None:
    found = read_judgements(written(tmp_path, "sits_val.csv", SITS))
    assert (found.relation, found.kinds, found.form) == (Relation.I2T, ("image", "caption"), "graded")
    assert rows(found) == [("431431", "648388", 1.8), ("302572", "346617", 4.99)]
    assert (found.name, found.positive_from) == ("sits_val", 3.0)


def test_sts_and_sis(tmp_path: Path) -> None:
    texts = read_judgements(written(tmp_path, "sts_val.csv", STS))
    images = read_judgements(written(tmp_path, "sis_val.csv", SIS))
    assert (texts.relation, rows(texts)) == (Relation.T2T, [("98", "480512", 3.21)])
    assert (images.relation, rows(images)) == (Relation.I2I, [("32001", "432818", 0.5)])


def test_raw_ratings_of_one_pair_are_averaged(tmp_path: Path) -> None:
    raw = STS.replace("agg_score", "score") + STS.splitlines()[1].replace("3.21", "4.21") + "\n"
    ((left, right, rating),) = rows(read_judgements(written(tmp_path, "sts_val_raw.csv", raw)))
    assert (left, right) == ("98", "480512")
    assert rating == pytest.approx(3.71)


def test_eccv_both_directions(tmp_path: Path) -> None:
    forward = written(tmp_path, "eccv_image_to_caption.json", json.dumps({"42": [7, 8], "43": [9]}))
    back = written(tmp_path, "eccv_caption_to_image.json", json.dumps({"7": [42]}))
    found = read_judgements(forward)
    assert (found.relation, found.form) == (Relation.I2T, "positives")
    assert rows(found) == [("42", "7", 1.0), ("42", "8", 1.0), ("43", "9", 1.0)]
    assert read_judgements(back).relation is Relation.T2I


@pytest.mark.parametrize("document", ["[]", '{"42": 7}', '{"42": [1.5]}', '{"42": [', '{"42": [[]]}'])
def test_eccv_of_another_form(tmp_path: Path, document: str) -> None:
    path = written(tmp_path, "eccv_image_to_caption.json", document)
    with pytest.raises(DatasetError):
        read_judgements(path, "eccv")


def test_eccv_needs_a_name_that_tells_the_direction(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="gives no direction"):
        read_judgements(written(tmp_path, "right.json", "{}"), "eccv")


def test_stsb_without_a_header_and_a_named_table(tmp_path: Path) -> None:
    bare = read_judgements(written(tmp_path, "sts-test.csv", STSB))
    assert rows(bare) == [("A girl's hair.", 'A "girl" brushes, hair.', 2.5)]
    named = read_judgements(written(tmp_path, "sts.csv", 'sentence1,sentence2,score\n"a, b",c,4.5\n'))
    assert (rows(named), named.kinds) == ([("a, b", "c", 4.5)], ("text", "text"))


@pytest.mark.parametrize(
    ("columns", "relation", "kinds"),
    [
        (("caption_id", "image_id"), Relation.I2T, ("image", "caption")),
        (("text", "image_id"), Relation.I2T, ("image", "text")),
        (("text", "text_2"), Relation.T2T, ("text", "text")),
        (("text", "caption_id"), Relation.T2T, ("caption", "text")),
        (("image_id", "image_id_2"), Relation.I2I, ("image", "image")),
    ],
)
def test_tables_of_ones_own(
    tmp_path: Path, columns: tuple[str, str], relation: Relation, kinds: tuple[str, str]
) -> None:
    path = tmp_path / "mine.parquet"
    pl.DataFrame({columns[0]: ["a", "b"], columns[1]: ["c", "d"], "rating": [1, 2]}).write_parquet(path)
    found = read_judgements(path)
    assert (found.relation, found.kinds, found.positive_from) == (relation, kinds, None)
    first, second = ("a", "c") if kinds[0] in columns[0] else ("c", "a")
    assert rows(found)[0] == (first, second, 1.0)


def test_whole_numbers_are_ids(tmp_path: Path) -> None:
    path = tmp_path / "numbers.parquet"
    pl.DataFrame({"caption_id": [770337], "image_id": [391895], "rating": [1.0]}).write_parquet(path)
    assert rows(read_judgements(path)) == [("391895", "770337", 1.0)]


def test_positive_column_gives_the_threshold_or_contradicts(tmp_path: Path) -> None:
    table = "image_id,caption_id,rating,positive\na,x,1,false\na,y,2,false\nb,x,3,true\nb,y,5,true\n"
    assert read_judgements(written(tmp_path, "good.csv", table)).positive_from == 3.0
    with pytest.raises(DatasetError, match="contradict"):
        read_judgements(written(tmp_path, "bad.csv", table.replace("5,true", "5,false")))


def test_reader_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path, "x.csv", SITS)
    assert read_judgements(f"cxc={path}").source == "CxC SITS"
    assert read_judgements(path, "cxc").source == "CxC SITS"
    with pytest.raises(UnknownNameError, match="cxc"):
        read_judgements(path, "cxcc")
    with pytest.raises(DatasetError):
        read_judgements(path, "eccv")


def test_a_file_whose_name_has_an_equals_sign_is_itself(tmp_path: Path) -> None:
    assert read_judgements(str(written(tmp_path, "cxc=1.csv", SITS))).name == "cxc=1"


@pytest.mark.parametrize("text", ["", "hello\n", "a,b,c\n1,2,3\n", "\x00\x01", "PAR1 is not enough"])
def test_unknown_formats_name_the_readers(tmp_path: Path, text: str) -> None:
    with pytest.raises(DatasetError):
        read_judgements(written(tmp_path, "what.csv", text))


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot read"):
        read_judgements(tmp_path / "absent.csv")


@pytest.mark.parametrize("rating", ["", "nan", "inf", "high"])
def test_ratings_must_be_numbers(tmp_path: Path, rating: str) -> None:
    with pytest.raises(DatasetError, match="no numbers"):
        read_judgements(written(tmp_path, "r.csv", f"image_id,caption_id,rating\na,b,{rating}\nc,d,1\n"))


def test_ours_keep_the_protocol() -> None:
    names = registry.names("judgement")
    assert {"cxc", "eccv", "flickr8k_experts", "flickr8k_crowd", "sts", "ratings"} <= set(names)
    for name in names:
        assert isinstance(registry.load("judgement", name)(), JudgementReader)


@pytest.mark.shared
def test_flickr8k_text_and_parquet_say_the_same(shared_data: Path) -> None:
    folder = shared_data / "flickr8k"
    for text, table, pairs in (
        ("ExpertAnnotations.txt", "expert_judgements.parquet", 5822),
        ("CrowdFlowerAnnotations.txt", "crowdflower_judgements.parquet", 47830),
    ):
        original, parquet = read_judgements(folder / text), read_judgements(folder / table)
        assert original.frame.height == parquet.frame.height == pairs
        assert original.positive_from == parquet.positive_from
        both = original.frame.join(parquet.frame, on=["left", "right"], suffix="_2")
        assert both.height == pairs
        assert (both["rating"] - both["rating_2"]).abs().max() < 1e-5  # type: ignore[operator]
