"""Small inputs with the traits of public bug reports of neighbouring tools: the right value, or a refusal by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from labelgen.corpus.adapters.coco import Coco
from labelgen.corpus.adapters.flickr import Flickr30k
from labelgen.corpus.adapters.folder import Folder
from labelgen.corpus.adapters.table import Table
from labelgen.corpus.arrange import arrange
from labelgen.corpus.frames import Corpus
from labelgen.corpus.ledger import ledger_notes
from labelgen.errors import DatasetError

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"

SENTENCES = [
    "a red kite over the harbour",
    "two goats climb a wall",
    "an old tram in the rain",
    "bread on a wooden table",
    "children draw with chalk",
    "a lighthouse at dusk",
    "a man repairs a bicycle",
    "snow on a roof",
    "a blue door with a cat",
    "people queue for ice cream",
    "a dog jumps into a lake",
    "a violin on a chair",
]


def texts(corpus: Corpus) -> list[str]:
    found: list[str] = corpus.captions["text"].to_list()
    return found


def test_d01_a_caption_that_begins_with_a_quote() -> None:
    corpus = arrange(Table(CASES / "d01_tsv_quote").read())
    expected = [*SENTENCES[:2], f'"{SENTENCES[2]}', *SENTENCES[3:8], 'a blue door with a 5" cat"', *SENTENCES[9:]]
    assert texts(corpus) == expected
    assert corpus.images["image_id"].to_list() == [str(number) for number in range(12)]
    with pytest.raises(DatasetError, match=r"line 4 of captions\.tsv is not CSV"):
        Table(CASES / "d01_tsv_quote", quoting="csv").read()


def test_d01b_a_quoted_word() -> None:
    corpus = arrange(Table(CASES / "d01b_tsv_quote_word").read())
    assert texts(corpus) == [*SENTENCES[:2], '"STOP" sign in the rain', *SENTENCES[3:]]


def test_d05_carriage_returns_alone() -> None:
    corpus = arrange(Flickr30k(CASES / "d05_token_cr").read())
    assert texts(corpus) == [f"{text} {n}" for text in SENTENCES for n in (0, 1)]
    assert corpus.images["file"].to_list() == [f"{100000 + number}.jpg" for number in range(12)]


def test_d05d_the_language_in_the_token() -> None:
    corpus = arrange(Flickr30k(CASES / "d05d_token_cn").read())
    assert corpus.images["file"].to_list() == ["20000.jpg", "20001.jpg", "20002.jpg"]
    assert corpus.images["image_id"].to_list() == ["20000", "20001", "20002"]
    assert corpus.images["n_captions"].to_list() == [5, 5, 5]
    assert corpus.captions["caption_id"][0] == "20000.jpg#zhm#0"


def test_d09_texts_of_several_lines() -> None:
    corpus = arrange(Folder(CASES / "d09_folder_lines").read())
    assert len(corpus.captions) == 12
    (note,) = [note for note in ledger_notes(corpus.ledger) if "lines of texts" in note]
    assert note.startswith("24 of 36 lines of texts skipped")
    assert "lines='each'" in note
    split = arrange(Folder(CASES / "d09_folder_lines", lines="each").read())
    assert texts(split) == [f"{text}{end}" for text in SENTENCES for end in ("", " again", " once more")]
    assert ledger_notes(split.ledger) == []


@pytest.mark.parametrize("adapter", [Coco, Flickr30k])
def test_d12_rsicd(adapter: type[Coco | Flickr30k]) -> None:
    corpus = arrange(adapter(CASES / "d12_rsicd").read())
    assert corpus.images["image_id"].to_list() == [f"airport_{number}" for number in range(12)]
    assert corpus.images["split"].to_list() == ["train"] * 8 + ["test"] * 4
    assert corpus.images["file"].to_list() == [f"airport_{number}.jpg" for number in range(12)]
    assert texts(corpus) == [f"{text} ." for text in SENTENCES for _ in range(5)]


def test_d14_utf16() -> None:
    with pytest.raises(DatasetError, match=r"captions\.tsv is not in UTF-8 but in UTF-16") as caught:
        Table(CASES / "d14_utf16").read()
    assert "iconv -f UTF-16" in caught.value.todo


def test_d14b_windows_1252() -> None:
    with pytest.raises(DatasetError, match=r"captions\.csv is not in UTF-8 but in Windows-1252") as caught:
        Table(CASES / "d14b_cp1252").read()
    assert "line 2" in caught.value.found
    assert "café “a red kite" in caught.value.found
