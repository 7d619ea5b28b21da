"""Tables that could be read in a wrong way: the right rows, or a refusal that names the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from labelgen.corpus.adapters.table import Table
from labelgen.corpus.arrange import arrange
from labelgen.corpus.base import Records
from labelgen.corpus.ledger import Account, ledger_notes
from labelgen.errors import ConfigError, DatasetError, UnknownNameError

HEADER = "image_id,caption"


def read(tmp_path: Path, content: str | bytes, name: str = "captions.csv", **options: Any) -> Records:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    return Table(tmp_path, file=name, **options).read()


def pairs(records: Records) -> list[tuple[str, str]]:
    return [(item.image_id, item.text) for item in records.captions]


def account(records: Records, unit: str) -> Account:
    (found,) = [account for account in records.ledger if account.unit == unit]
    return found


# --- quotes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "separator"), [("captions.tsv", "\t"), ("captions.csv", ","), ("captions.csv", ";"), ("captions.csv", "|")]
)
@pytest.mark.parametrize(
    "caption", ['"an old tram', '"STOP" sign', 'a 5" pipe', '"Go" and "stop"', 'the end"', '"', '"" nothing', 'x "y" z']
)
def test_quotes_in_a_file_without_quoting(tmp_path: Path, name: str, separator: str, caption: str) -> None:
    rows = [("1", "one"), ("2", caption), ("3", "three")]
    text = "".join(f"{separator.join(row)}\n" for row in [("image_id", "caption"), *rows])
    assert pairs(read(tmp_path, text, name)) == rows


@pytest.mark.parametrize(("name", "separator"), [("captions.tsv", "\t"), ("captions.csv", ",")])
@pytest.mark.parametrize("between", [0, 1, 5])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_quote_that_another_caption_closes(
    tmp_path: Path, name: str, separator: str, between: int, order: tuple[int, int]
) -> None:
    """Valid CSV by the letter: one caption of several lines, or the rows of a file without quotes?"""
    rows = [
        ("1", "one"),
        ("2", '"an old tram'),
        *((str(3 + n), "a dog") for n in range(between)),
        ("9", 'a pipe of 5"'),
    ]
    lines = [("image_id", "caption"), *rows, ("10", "the last")]
    text = "".join(separator.join(line[place] for place in order) + "\n" for line in lines)
    if order == (1, 0):  # the quote has to stand at the end of a field for this
        assert '5"' + separator in text
    with pytest.raises(DatasetError, match=r"line 3 of captions\..* in one way only") as caught:
        read(tmp_path, text, name)
    assert "quoting='none'" in caught.value.todo
    assert pairs(read(tmp_path, text, name, quoting="none")) == [*rows, ("10", "the last")]
    assert len(read(tmp_path, text, name, quoting="csv").captions) == 3


@pytest.mark.parametrize("name", ["captions.tsv", "captions.csv"])
def test_texts_of_several_lines_that_are_quoted_as_they_should_be(tmp_path: Path, name: str) -> None:
    separator = "\t" if name.endswith("tsv") else ","
    captions = ["A dog barks\nA cat, asleep", "one\r\n\r\ntwo", 'a "big"\nhouse', "x\n", "\n", "tab\there"]
    rows = [(str(number), text) for number, text in enumerate(captions)]
    quoted = [(number, '"' + text.replace('"', '""') + '"') for number, text in rows]
    text = "".join(separator.join(row) + "\r\n" for row in [("image_id", "caption"), *quoted])
    assert pairs(read(tmp_path, text, name)) == rows


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (f'{HEADER}\n1,"a cat"\n2,"a dog\n3,"a bird"\n', 3),  # one closing quote is missing among quoted captions
        (f'{HEADER}\n1,a cat\n2,"a dog, and\n3,a bird, and\n', 3),  # a comma forbids the reading without quotes
        (f'{HEADER}\n1,"a \\"big\\" cat"\n', 2),  # a backslash does not quote
        ('"image_id","caption"\n"1","a" cat"\n', 2),
        (f'{HEADER}\n1,"a ""big"" cat"\n2,"STOP" sign\n', 3),
        (f'{HEADER}\n1,x\n2,"' + "long " * 40_000 + '"\n', 3),
    ],
)
def test_quotes_that_fit_no_reading(tmp_path: Path, content: str, line: int) -> None:
    with pytest.raises(DatasetError, match=rf"^line {line} of captions\.csv is not CSV") as caught:
        read(tmp_path, content)
    assert len(str(caught.value)) < 1500


def test_options_of_tables(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="quoting 'cvs'"):
        Table(tmp_path, quoting="cvs")
    with pytest.raises(ConfigError, match="not a separator"):
        Table(tmp_path, separator="::")
    text = "image_id;caption\n1;a, b\n2;c, d\n"
    for separator in ("", ";", "semicolon"):
        assert pairs(read(tmp_path, text, separator=separator)) == [("1", "a, b"), ("2", "c, d")]
    assert pairs(read(tmp_path, text.replace(";", "\t"), separator="tab")) == [("1", "a, b"), ("2", "c, d")]


def test_a_separator_that_the_header_does_not_settle(tmp_path: Path) -> None:
    text = "image_id;caption|old\n1;a|b\n"
    with pytest.raises(DatasetError, match="no column 'image_id'") as caught:
        read(tmp_path, text)
    assert "separator=..." in caught.value.todo
    assert len(read(tmp_path, text, separator=";", caption="caption|old").captions) == 1


def test_separators_with_a_space_behind_them(tmp_path: Path) -> None:
    """As Flickr30k's `results.csv` on Kaggle."""
    text = 'image_name| comment_number| comment\n1.jpg| 0| Two young guys .\n1.jpg| 1| "Two" men .\n'
    with pytest.raises(DatasetError, match="line 3"):
        read(tmp_path, text, quoting="csv", image_id="image_name", caption="comment")
    records = read(tmp_path, text, image_id="image_name", caption="comment")
    assert pairs(records) == [("1.jpg", "Two young guys ."), ("1.jpg", '"Two" men .')]


# --- headers and rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_in_the_middle(tmp_path: Path, mark: str) -> None:
    records = read(tmp_path, f"{HEADER}\n1,one\n{mark}{HEADER}\n2,two\n")
    assert pairs(records) == [("1", "one"), ("2", "two")]
    rows = account(records, "rows")
    assert (rows.seen, rows.used) == (3, 2)
    assert rows.skipped["repeated header"].loud
    assert any("repeated header" in note and "line 3" in note for note in ledger_notes(records.ledger))


def test_a_header_in_another_order(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 3 of captions\.csv repeats the header with another order of columns"):
        read(tmp_path, f"{HEADER}\n1,one\ncaption,image_id\ntwo,2\n")


def test_a_mark_in_the_middle(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 3 of captions\.csv begins with a byte order mark"):
        read(tmp_path, f"{HEADER}\n1,one\n\ufeff2,two\n")


def test_names_with_spaces(tmp_path: Path) -> None:
    assert pairs(read(tmp_path, "\ufeff image_id ,caption\t\n1,one\n")) == [("1", "one")]
    assert pairs(read(tmp_path, 'image_id, caption\n1, "one, two"\n2, three\n')) == [("1", "one, two"), ("2", "three")]


def test_a_column_twice(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'caption' more than once"):
        read(tmp_path, "image_id,caption,caption\n1,one,two\n")
    assert pairs(read(tmp_path, "image_id,caption,x,x\n1,one,a,b\n")) == [("1", "one")]


def test_lines_without_data(tmp_path: Path) -> None:
    records = read(tmp_path, f"\n{HEADER}\n\n1,one\n,\n\r\n2,two\n\n")
    assert pairs(records) == [("1", "one"), ("2", "two")]
    assert [caption.source_row for caption in records.captions] == [0, 1]
    rows = account(records, "rows")
    assert (rows.seen, rows.used) == (7, 2)
    assert {kind: tally.count for kind, tally in rows.skipped.items()} == {"blank line": 4, "empty row": 1}
    assert ledger_notes(records.ledger) == []


@pytest.mark.parametrize("row", ["1", "1,one,two", "1,one,", "   "])
def test_rows_of_another_width(tmp_path: Path, row: str) -> None:
    with pytest.raises(DatasetError, match=r"line 3 of captions\.csv has"):
        read(tmp_path, f"{HEADER}\n0,zero\n{row}\n2,two\n")


def test_a_row_without_an_id(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"row 2 of captions\.csv \(line 4\) has no image id"):
        read(tmp_path, f"{HEADER}\n1,one\n\n,two\n")


def test_files_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no column 'image_id'") as caught:
        read(tmp_path, "")
    assert "the file is empty" in caught.value.found
    with pytest.raises(DatasetError, match="the data set is empty"):
        arrange(read(tmp_path, HEADER))


def test_columns_and_tables_that_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text("image_id\tcaption\n1\tother\n")
    (tmp_path / "captions.csv").write_text("image_id,caption,caption_2,width\n1,one,two,640\n")
    records = Table(tmp_path).read()
    columns = account(records, "columns")
    assert (columns.seen, columns.used) == (4, 2)
    notes = ledger_notes(records.ledger)
    assert any("caption_2" in note for note in notes)
    assert any("captions.tsv" in note for note in notes)
    assert len(notes) == 2


# --- line ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
def test_line_ends_of_other_systems(tmp_path: Path, end: str) -> None:
    rows = [("1", "one"), ("2", "two\u2028lines\u0085and\x0bmore\x0c"), ("3", '"quoted" word')]
    text = end.join([HEADER, *map(",".join, rows), ""])
    assert pairs(read(tmp_path, text)) == rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_jsonl_of_other_systems(tmp_path: Path, end: str) -> None:
    lines = [{"image_id": 1, "caption": "one\r\u2028two"}, {"image_id": 2, "caption": "three"}]
    text = end.join([*(json.dumps(line, ensure_ascii=False) for line in lines), ""])
    assert pairs(read(tmp_path, text, "captions.jsonl")) == [("1", "one\r\u2028two"), ("2", "three")]


def test_lines_that_end_in_two_ways(tmp_path: Path) -> None:
    """The carriage return may end a row, or stand in a caption."""
    with pytest.raises(DatasetError, match=r"line 3 of captions\.csv has another line ending"):
        read(tmp_path, f"{HEADER}\n1,a cat\n2,a dog\rasleep, on a mat\n3,x\n".replace("asleep, ", "asleep,"))
    assert len(read(tmp_path, f'{HEADER}\n1,"a\rb"\r\n2,c\n').captions) == 2
    assert len(read(tmp_path, f'{HEADER}\r1,"a\nb"\r2,c\r').captions) == 2


# --- encodings ------------------------------------------------------------------------------------------------

TEXT = f"{HEADER}\n" + "".join(f"{number},caf\u00e9 \u201cnumber\u201d {number}\n" for number in range(12))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.jsonl"])
def test_wide_encodings(tmp_path: Path, encoding: str, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"not in UTF-8 but in {encoding[:6].upper()}"):
        read(tmp_path, TEXT.encode(encoding), name)


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "cp1251", "shift_jis"])
def test_encodings_of_one_or_two_bytes(tmp_path: Path, encoding: str) -> None:
    words = {
        "cp1252": "caf\u00e9",
        "gb18030": "\u72d7\u5728\u8349",
        "cp1251": "\u0441\u043e\u0431",
        "shift_jis": "\u72ac",
    }
    text = f"{HEADER}\n" + "".join(f"{number},{words[encoding]} {number}\n" for number in range(12))
    with pytest.raises(DatasetError, match="not in UTF-8"):
        read(tmp_path, text.encode(encoding))
    assert len(read(tmp_path, text.encode("utf-8-sig")).captions) == 12


def test_single_damaged_captions_are_quarantined(tmp_path: Path) -> None:
    """Few of many, or fewer than what is UTF-8: the file is in UTF-8."""
    good = TEXT.encode() + b"12,caf\xe9\n13,\xff\xfe\n14,na\xefve\n15,x\xe9\n"
    statuses = arrange(read(tmp_path, good)).captions["status"].to_list()
    assert statuses == ["ok"] * 12 + ["not_utf8"] * 4
    ascii_only = HEADER.encode() + b"\n" + b"".join(b"%d,%s\n" % (n, b"a dog " * 20) for n in range(400))
    few = ascii_only + b"400,caf\xe9\n401,caf\xe9\n402,caf\xe9\n403,caf\xe9\n"
    assert arrange(read(tmp_path, few)).captions["status"].to_list().count("not_utf8") == 4


# --- JSON -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"image_id": 1, "image_id": 2, "caption": "x"}', "'image_id' occurs twice"),
        ('{"image_id": NaN, "caption": "x"}', "unusable id"),
        ('{"image_id": 1, "caption": NaN}', "not text"),
        ('{"image_id": ' + "9" * 5000 + ', "caption": "x"}', "is not JSON"),
        ('{"image_id": 1, "caption": ' + "[" * 100_000 + "}", "is not JSON"),
        ('{"image_id": {"a": 1}, "caption": "x"}', "unusable id"),
        ('{"image_id": 1, "caption": {"en": "' + "x" * 1_000_000 + '"}}', "not text"),
        ('{"image_id": true, "caption": "x"}', "unusable id"),
        ('{"image_id": 1, "caption": "x", "file_name": ["a.jpg"]}', "file name that is not text"),
        ('{"image_id": 1, "caption": "x", "split": 0.5}', "unusable id"),
        ('{"image_id": 1, "caption": ["x", "y"], "caption_id": "a"}', "2 captions and a different number of ids"),
        ('{"image_id": 1, "caption": "x"} {"image_id": 2, "caption": "y"}', "is not JSON"),
        ("nothing", "is not JSON"),
    ],
)
def test_lines_of_jsonl_that_are_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DatasetError, match=r"(line|row) 2 of captions\.jsonl") as caught:
        read(tmp_path, '{"image_id": 0, "caption": "fine"}\n' + line + "\n", "captions.jsonl")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1500


# --- pictures inside of parquet, lists of captions --------------------------------------------------------------


def hugging_face(path: Path, captions: list[Any]) -> None:
    pictures = [{"bytes": b"\xff\xd8" + bytes(1000), "path": f"{number}.jpg"} for number in range(len(captions))]
    pl.DataFrame({"image": pictures, "caption": captions}).write_parquet(path)


def test_parquet_of_hugging_face(tmp_path: Path) -> None:
    hugging_face(tmp_path / "captions.parquet", [["one", "two"], [], ["three"]])
    records = Table(tmp_path).read()
    assert pairs(records) == [("0.jpg", "one"), ("0.jpg", "two"), ("2.jpg", "three")]
    assert [image.file for image in records.images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [caption.caption_id for caption in records.captions] == ["0.jpg#0", "0.jpg#1", "2.jpg#0"]
    (note,) = ledger_notes(records.ledger)
    assert note.startswith("3 of 3 pictures inside the table skipped: column 'image'")


def test_lists_of_captions_with_ids(tmp_path: Path) -> None:
    line = {"image_id": 1, "caption": ["one", "two"], "caption_id": ["a", "b"]}
    records = read(tmp_path, json.dumps(line), "captions.jsonl")
    assert [(caption.caption_id, caption.text) for caption in records.captions] == [("a", "one"), ("b", "two")]


def test_a_picture_without_a_path(tmp_path: Path) -> None:
    pl.DataFrame({"image": [{"bytes": b"x", "path": None}], "caption": ["one"]}).write_parquet(
        tmp_path / "captions.parquet"
    )
    with pytest.raises(DatasetError, match="unusable id"):
        Table(tmp_path).read()


# --- absolute paths ---------------------------------------------------------------------------------------------


def test_absolute_paths_of_photographs(tmp_path: Path) -> None:
    photos = tmp_path / "disk"
    (photos / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(photos, target_is_directory=True)
    data = tmp_path / "data"
    data.mkdir()
    text = f"image_id,caption,file_name\n1,one,{photos}/a/1.jpg\n2,two,{tmp_path}/link/2.jpg\n3,three,3.jpg\n"
    records = read(data, text.replace("link", "disk"), photos=str(photos))
    assert [image.file for image in records.images] == ["a/1.jpg", "2.jpg", "3.jpg"]
    assert records.photos == photos
    through = read(data, text.replace("/link/", "/disk/"), photos=str(tmp_path / "link"))
    assert [image.file for image in through.images] == ["a/1.jpg", "2.jpg", "3.jpg"]
    with pytest.raises(DatasetError, match="image '1' is outside"):
        read(data, text.replace(str(photos), "/etc"), photos=str(photos))
    with pytest.raises(DatasetError, match="not safe"):
        arrange(read(data, text))
    with pytest.raises(DatasetError, match="not safe"):
        arrange(read(data, text.replace("/a/1.jpg", "/../1.jpg").replace("link", "disk"), photos=str(photos)))
