"""Flickr8k: what is trained on, what a run keeps, and what is chosen and reported by which measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import labelgen
from comparison.measures import Kept, Measure, human, retrieval
from comparison.outcome import ranks_of, scores_of
from comparison.training import Budget, embed, train
from corpus import Corpus, Vocabulary, texts_of, usable
from labelgen.audit import read_judgements
from labelgen.audit.card.pairs import JudgedPairs, resolve
from labelgen.store.reader import Store


@dataclass(frozen=True)
class Flickr8k:
    """A store in memory, with the judgements of people on its test split. Labels are asked for `train` alone."""

    store: Store
    vocabulary: Vocabulary
    train: Corpus
    val: Corpus
    test: Corpus
    judged: tuple[JudgedPairs, ...]

    @classmethod
    def open(cls, path: Path, against: Sequence[Path], splits: Sequence[str]) -> Flickr8k:
        """The store, files of judgements, and the names of the splits for train, val and test."""
        store = labelgen.open(path)
        vocabulary = Vocabulary(texts_of(store, usable(store, splits[0])[1]))
        parts = (Corpus.of(store, split, vocabulary) for split in splits)
        judged = tuple(resolve(store, read_judgements(file)) for file in against)
        return cls(store, vocabulary, *parts, judged)

    def run(self, text: str, budget: Budget, seed: int) -> Kept:
        """Train a student and keep its ranks on val and test and its scores of the judged pairs."""
        towers = train(text, self.train, self.store, len(self.vocabulary), budget, seed)
        val = ranks_of(*embed(towers, self.val), self.val.owner)
        images, texts = embed(towers, self.test)
        return {
            **{f"val.{name}": ranks for name, ranks in val.items()},
            **{f"test.{name}": ranks for name, ranks in ranks_of(images, texts, self.test.owner).items()},
            **scores_of(images, texts, self.test, self.judged),
        }

    def selecting(self) -> list[Measure]:
        """What choices are made by: val, and the first half of the judged images."""
        people = [measure for pairs in self.judged for measure in human(pairs, "first", people_of(pairs))]
        return [*retrieval(self.val.owner, "val."), *people]

    def reporting(self) -> list[Measure]:
        """What is reported: test, and the second half of the judged images."""
        people = [measure for pairs in self.judged for measure in human(pairs, "second", people_of(pairs))]
        return [*retrieval(self.test.owner, "test."), *people]


def people_of(pairs: JudgedPairs) -> str:
    """`experts` or `crowd`: the last word of the source."""
    return pairs.judgements.source.rpartition(" ")[2]
