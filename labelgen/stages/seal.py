"""Seals a finished run: corpus, readme, and last the manifest, which is the commit."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import labelgen
from labelgen.config import BuildConfig
from labelgen.fingerprint import digest
from labelgen.similarity.ann.recall import wilson
from labelgen.stages.build import Built
from labelgen.stages.ingest.final_corpus import SealedCorpus, move_into_place, seal_corpus
from labelgen.stages.model.facts import TeacherFacts
from labelgen.stages.model.lists import ListSpec
from labelgen.stages.plan.build_plan import ProductPlan, list_fingerprint
from labelgen.stages.running.environment import libraries, machine
from labelgen.stages.running.lock import changed_fields
from labelgen.stages.running.task import Receipt, receipt_path
from labelgen.stages.work.approximate import engine_of
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, write_atomic
from labelgen.store.disk.files import read_below, status_below
from labelgen.store.disk.shards import metadata_paths, write_array_metadata
from labelgen.store.manifest import (
    CorpusEntry,
    EmbeddingEntry,
    Manifest,
    NeighborEntry,
    QuarantineEntry,
    TeacherEntry,
    content_digest,
    save_manifest,
)
from labelgen.store.readme.readme import rendered

#: Facts of an engine (see its `SearchFacts`), and the functions that combine those of several strips.
_FACTS: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "rescored": sum,
    "fell_back": sum,
    "bound": max,
    "largest_error": max,
    "margin": min,
}


def seal(root: Path, config: BuildConfig, built: Built, sealed: Manifest | None) -> Manifest:
    """Write corpus, readme and manifest; the manifest is written last and is the commit."""
    stored = {entry.array.path for entry in sealed.embeddings} if sealed else set()
    new = [plan for plan in built.embeddings if plan.spec.path not in stored]
    corpus = seal_corpus(root, root / built.corpus.folder, new, built.receipts, sealed)
    teachers = {facts.alias: _teacher_entry(facts, built) for facts in built.teachers}
    if sealed is not None:
        teachers |= {alias: entry for alias, entry in sealed.teachers.items() if alias in teachers}
    embeddings = tuple(EmbeddingEntry(p.alias, p.modality, p.spec, p.fingerprint) for p in built.embeddings)
    neighbors = tuple(
        _neighbor_entry(product, item, built, sealed) for product in built.products for item in product.lists
    )
    tree: dict[str, Any] = {"corpus": built.corpus.fingerprint, "photos": built.corpus.photos_fingerprint}
    tree |= {entry.array.path: entry.fingerprint for entry in embeddings}
    tree |= {entry.path: entry.fingerprint for entry in neighbors}
    files = dict(corpus.files) | _array_files(root, built, sealed, [e.array for e in embeddings], neighbors)
    # Only the data set that this run read, the last part of the corpus, has a new account.
    ledger = corpus.ledger(built.ingested.ledger, built.corpus.parts[-1])
    first = ledger if sealed is None else sealed.corpus.ledger
    parts = built.ingested.parts
    if built.ingested.appended is not None:
        parts = (*parts[:-1], replace(parts[-1], ledger=ledger))
    manifest = Manifest(
        store_id=sealed.store_id if sealed else uuid.uuid4().hex,
        created=sealed.created if sealed else _now(),
        labelgen=labelgen.__version__,
        recipe=config.to_dict(),
        fingerprints=tree,
        teachers=teachers,
        corpus=CorpusEntry(
            path=corpus.path,
            n_images=built.corpus.n_images,
            n_captions=built.corpus.n_captions,
            n_texts=built.corpus.n_texts,
            splits=built.ingested.splits,
            fingerprint=built.corpus.fingerprint,
            about=built.ingested.about,
            parts=parts,
            ledger=first,
            kinds=built.corpus.kinds,
            groups=corpus.groups,
            text_borders=built.corpus.text_borders,
        ),
        embeddings=embeddings,
        neighbors=neighbors,
        quarantine=QuarantineEntry(f"{corpus.path}/{layout.QUARANTINE}", len(corpus.quarantine), corpus.by_reason),
        counts={
            "images": built.corpus.n_images,
            "captions": built.corpus.n_captions,
            "texts": built.corpus.n_texts,
            "splits": len(built.ingested.splits),
        },
        files=files,
        content_digest=content_digest(files),
        libraries=libraries(),
        machine={**machine(), "classes": list(built.machines)},
        stages=built.stages,
        history=(*(sealed.history if sealed else ()), *_change(config, sealed, built)),
    )
    return _committed(root, manifest, corpus)


def _committed(root: Path, manifest: Manifest, corpus: SealedCorpus) -> Manifest:
    """Move the files of the seal into place, then write its manifest.

    Before that, the new manifest and the one it replaces are written to the folder of the work: after a kill at any
    moment, new and obsolete files are known by size and checksum.
    """
    cards = rendered(manifest, corpus.tables(root))
    facts = {path: FileFact(len(data), digest(data)) for path, data in cards.items()}
    manifest = replace(manifest, files={**manifest.files, **facts})
    if status_below(root, layout.MANIFEST) is not None:
        write_atomic(root / layout.REPLACED, read_below(root, layout.MANIFEST))
    save_manifest(root, manifest, layout.NEXT)
    move_into_place(root, corpus)
    for path, data in cards.items():
        write_atomic(root / path, data)
    save_manifest(root, manifest)
    return manifest


def _array_files(
    root: Path,
    built: Built,
    sealed: Manifest | None,
    arrays: Sequence[layout.ArraySpec],
    neighbors: Sequence[NeighborEntry],
) -> dict[str, FileFact]:
    """Facts of every file outside the corpus, from the old manifest or from receipts, never from disk."""
    wanted = [spec.path for spec in arrays] + [entry.path for entry in neighbors]
    known = dict(sealed.files) if sealed else {}
    known |= {
        output.path: FileFact(output.bytes, output.blake3) for r in built.receipts.values() for output in r.outputs
    }
    models = [plan.network for plan in built.embeddings if plan.network]
    files = {path: known[path] for path in models}
    files |= {path: fact for path, fact in known.items() if path.startswith(tuple(f"{prefix}/" for prefix in wanted))}
    generation = built.corpus.generation
    measured = {
        layout.stats_path(entry.relation, entry.alias, entry.aggregation, generation, entry.kinds)
        for entry in neighbors
    }
    files |= {path: known[path] for path in measured}
    for spec in (*arrays, *(spec for entry in neighbors for spec in entry.arrays().values())):
        paths = metadata_paths(spec)
        if any(path not in known for path in paths):  # sealed files are not written again
            files = write_array_metadata(root, spec) | files
        files |= {path: known[path] for path in paths if path in known}
    old = [path for path in (sealed.files if sealed else {}) if path.startswith(f"{layout.RECEIPTS}/")]
    files |= {path: known[path] for path in old if not built.change.drops_receipt(path)}
    return files | {receipt_path(key): receipt.fact for key, receipt in built.receipts.items()}


def _teacher_entry(facts: TeacherFacts, built: Built) -> TeacherEntry:
    deviation: dict[str, Any] = {
        plan.modality: dict(built.receipts[task.key].facts)
        for plan in built.embeddings
        if plan.alias == facts.alias and (task := plan.deviation_task()) is not None and task.key in built.receipts
    }
    trained = built.receipts.get(f"train/{facts.alias}")
    return TeacherEntry(
        facts.spec,
        tuple(sorted(facts.modalities)),
        facts.dim,
        facts.kind,
        dict(facts.identity),
        deviation,
        dict(trained.facts) if trained is not None else {},
    )


def _neighbor_entry(product: ProductPlan, item: ListSpec, built: Built, sealed: Manifest | None) -> NeighborEntry:
    for entry in sealed.neighbors if sealed else ():
        if entry.path == item.path:
            return entry
    facts = search_facts(product, item, built.receipts)
    if built.ingested.appended is not None:
        name = item.path.partition("/")[2]  # of the sealed list that this one extends, in another folder
        old = [entry.facts for entry in (sealed.neighbors if sealed else ()) if entry.path.partition("/")[2] == name]
        facts = _combined_facts([*old, facts])
    if item.approximate:
        facts |= _approximate_facts(product, item, built.receipts)
    return NeighborEntry(
        path=item.path,
        relation=item.relation,
        alias=item.alias,
        aggregation=item.aggregation,
        scope=item.scope,
        k=item.k,
        rows=built.corpus.rows(item.relation.query),
        fingerprint=list_fingerprint(product, item),
        approximate=bool(item.approximate),
        facts=facts,
        kinds=item.kinds,
    )


def search_facts(product: ProductPlan, item: ListSpec, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Facts of the engine on a list over all its strips: sums of counts, and the worst bounds and errors."""
    parts = [
        part
        for key, receipt in receipts.items()
        if key.startswith(f"search/{product.alias}.{product.product}-")
        for part in receipt.facts["parts"]
        if receipt.facts["lists"][part["list"]] == item.to_json()
    ]
    return _combined_facts(parts)


def _approximate_facts(product: ProductPlan, item: ListSpec, receipts: Mapping[str, Receipt]) -> dict[str, Any]:
    """Facts in the manifest of an approximate list: its engine, its calibration, and its measured recall."""
    engine, facts = engine_of(item.approximate), {key: dict(receipts[key].facts) for key in sorted(receipts)}
    measured = [each for each in facts.values() if each.get("list") == item.to_json()]
    images = sum(each["images"] for each in measured)
    mean = sum(each["recalls"] for each in measured) / images if images else None
    low, high = wilson(mean or 0.0, images)
    recall = {"k": item.k, "mean": mean, "low": low, "high": high, "images": images}
    recall |= {"target": engine.target, "seed": engine.seed}
    tuning = [each for key, each in facts.items() if key.startswith(f"index/{product.alias}.{product.product}-")]
    return {"engine": item.approximate, "library": engine.library, "tuning": tuning, "recall": recall}


def _combined_facts(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    known = {name: [part[name] for part in parts if part.get(name) is not None] for name in _FACTS}
    return {name: _FACTS[name](values) for name, values in known.items() if values}


def _change(config: BuildConfig, sealed: Manifest | None, built: Built) -> list[dict[str, Any]]:
    if sealed is None:
        return []
    record: dict[str, Any] = {"when": _now(), "labelgen": labelgen.__version__}
    record["changed"] = changed_fields(sealed, config)
    if built.change.names:
        record["dropped"] = list(built.change.names)
    if built.ingested.appended is not None:
        record["appended"] = dict(built.ingested.appended)
    return [record]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
