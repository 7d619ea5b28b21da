"""Texts and photographs as rows of a store's teachers, which are made of their specs and compared with the manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from labelgen import given
from labelgen.errors import TeacherError, shortened
from labelgen.fingerprint import canonical
from labelgen.queries.photo_queries import PhotoQuery
from labelgen.stages.model.facts import TeacherFacts
from labelgen.stages.running import worker
from labelgen.stages.running.lock import refuse_changed_teachers
from labelgen.stages.work.train import derivation_of, refined_again
from labelgen.store import layout
from labelgen.store.manifest import TeacherEntry
from labelgen.store.reader import Store
from labelgen.teachers.base import ImageTeacher, TextTeacher, least_side_of
from labelgen.teachers.checks import check_rows, normalise
from labelgen.teachers.failures import foreign
from labelgen.teachers.objects.given_teacher import resolve_teachers
from labelgen.types import Float16, Modality

_NAME = 60


class QueryEncoder:
    """Encodes queries as the build encoded the corpus: same network, same text step, same preprocessing."""

    def __init__(self, store: Store, teachers: Mapping[str, Any], device: str) -> None:
        """`teachers`: alias -> a teacher that replaces the one of the manifest's spec, in any form that `build` takes.

        Raises:
            SpecError, ConfigError: see `resolve_teachers`.
        """
        self.store, self._device = store, device
        self._specs, self._objects = resolve_teachers(teachers)

    def texts(self, alias: str, texts: Sequence[str]) -> Float16:
        """Rows of texts, float16 [len(texts), dim].

        Raises:
            TeacherError: the teacher cannot encode texts, or returns rows that cannot be used.
            StoreMismatchError: it is not the one that made the stored rows.
        """
        if self.store.manifest.teachers[alias].kind == "trained" and alias not in self._specs:
            return self._refined(alias, "text", lambda source: self.texts(source, texts))
        teacher = self._teacher(alias, "text")
        with foreign(f"teacher {alias!r} fails on the query"):
            blocks = range(0, len(texts), teacher.text_block)
            rows = [teacher.encode_texts(texts[start : start + teacher.text_block]) for start in blocks]
        return self._unit(alias, np.concatenate(rows), [repr(shortened(text, _NAME)) for text in texts])

    def images(self, alias: str, photos: Sequence[PhotoQuery]) -> Float16:
        """Rows of photographs, float16 [len(photos), dim]; raises as `texts`, and PhotoError for an unreadable one."""
        if self.store.manifest.teachers[alias].kind == "trained" and alias not in self._specs:
            return self._refined(alias, "image", lambda source: self.images(source, photos))
        teacher = self._teacher(alias, "image")
        with foreign(f"teacher {alias!r} fails on the query"):
            side = least_side_of(teacher)
            prepared = [photo.with_pixels(teacher.prepare_image, side) for photo in photos]
            batches = range(0, len(prepared), teacher.image_batch)
            rows = [teacher.encode_images(prepared[start : start + teacher.image_batch]) for start in batches]
        return self._unit(alias, np.concatenate(rows), [photo.name for photo in photos])

    def _refined(self, alias: str, modality: Modality, rows_by: Callable[[str], Float16]) -> Float16:
        """Rows of a trained teacher, made of what its sources (each by its alias) make of the queries."""
        manifest = self.store.manifest
        derivation = derivation_of(manifest, alias)
        sources = derivation.rows[modality]
        if any(source.modality != modality for source in sources):
            raise TeacherError(
                f"teacher {alias!r} cannot encode photographs: its rows of images are made of their captions, too",
                found=manifest.teachers[alias].spec,
                todo="ask one of its parts, or give a text",
            )
        if derivation.file:
            self.store.file(layout.model_path(alias, derivation.file))
        taken = {source: rows_by(source.alias) for source in sources}
        return refined_again(self.store.path, manifest, alias, modality, taken)

    def _unit(self, alias: str, rows: Any, names: Sequence[str]) -> Float16:
        check_rows(rows, dim=self.store.manifest.teachers[alias].dim, ids=names, what=f"teacher {alias!r}")
        return normalise(rows)

    def _teacher(self, alias: str, modality: Modality) -> Any:
        """The teacher of an alias, once it is known to be the one that made the stored rows."""
        entry = self.store.manifest.teachers[alias]
        spec = str(self._specs.get(alias, entry.spec))
        if entry.kind == "keyed" and alias not in self._specs:
            raise self._precomputed(alias, entry)
        with given.giving(self._objects):
            teacher = worker.teacher_on(spec, self._device)
        if not isinstance(teacher, TextTeacher if modality == "text" else ImageTeacher):
            raise TeacherError(
                f"teacher {alias!r} cannot encode {modality}s", found=spec, todo="give one that does, or ask another"
            )
        now = canonical(teacher.identity())
        facts = replace(TeacherFacts.from_entry(alias, entry), spec=spec, identity=now, dim=teacher.dim)
        refuse_changed_teachers(self.store.path, {alias: entry}, {alias: facts})
        return teacher

    def _precomputed(self, alias: str, entry: TeacherEntry) -> TeacherError:
        return TeacherError(
            f"the rows of teacher {alias!r} are precomputed: it cannot encode a query",
            found=entry.spec,
            expected="the network that made the features",
            todo=f"give it: store.query(..., teachers={{{alias!r}: model}}), or --teacher {alias}=module:factory",
        )
