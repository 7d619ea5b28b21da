"""Croissant 1.0 metadata of a store (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labelgen.store import layout
from labelgen.store.manifest import Manifest

_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_PARQUET = "application/x-parquet"
_TYPES = {"uint32": "sc:Integer", "string": "sc:Text"}

#: The context that version 1.0 of the specification prescribes: every term that the vocabulary has.
_CONTEXT: Mapping[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
            "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
            "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
            "transform",
        )
    },
}  # fmt: skip


def table_paths(manifest: Manifest) -> list[str]:
    """The parquet files that Croissant describes column by column."""
    corpus = manifest.corpus.path
    return [f"{corpus}/{layout.IMAGES}", f"{corpus}/{layout.CAPTIONS}", manifest.quarantine.path]


def render_croissant(manifest: Manifest, checksums: Mapping[str, str]) -> dict[str, Any]:
    """The document; `checksums` are the SHA-256 of `table_paths(manifest)`, which Croissant demands of single files."""
    about = manifest.corpus.about
    name = about.get("name") or str(manifest.recipe.get("dataset", {}).get("name", "unknown"))
    tables = dict(zip(("images", "captions", "quarantine"), table_paths(manifest), strict=True))
    known = {"license": about.get("licence"), "citeAs": about.get("citation"), "url": about.get("url")}
    return {
        "@context": dict(_CONTEXT),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": f"soft-labels-{name}",
        "description": (
            f"Soft labels for image-text retrieval on {name}: embeddings of {manifest.corpus.n_images} images and "
            f"{manifest.corpus.n_captions} captions by frozen teachers, and exact neighbour lists."
        ),
        "version": f"1.{len(manifest.history)}.0",
        "datePublished": manifest.created,
        **{key: value for key, value in known.items() if value},
        "distribution": [
            *(_file_object(manifest, path, checksums[path]) for path in tables.values()),
            _file_set(layout.EMBEDDINGS, manifest.generation, "float16 embedding rows, zarr v3"),
            _file_set(layout.NEIGHBORS, manifest.generation, "ids, scores and bounds of neighbour lists, zarr v3"),
        ],
        "recordSet": [_record_set(manifest, kind, path) for kind, path in tables.items()],
    }


def _file_object(manifest: Manifest, path: str, checksum: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{manifest.files[path].bytes} B",
        "encodingFormat": _PARQUET,
        "sha256": checksum,
    }


def _file_set(name: str, generation: int, description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": name,
        "name": name,
        "description": description,
        "includes": f"{layout.numbered(name, generation)}/**",
        "encodingFormat": "application/octet-stream",
    }


def _record_set(manifest: Manifest, kind: str, path: str) -> dict[str, Any]:
    name = path.rpartition("/")[2]
    present = {"kind": bool(manifest.corpus.kinds), "group": bool(manifest.corpus.groups)}
    added = {column: dtype for column, dtype in layout.ADDED_COLUMNS[name].items() if present[column]}
    columns = {**layout.TABLES[name], **added}
    return {
        "@type": "cr:RecordSet",
        "@id": kind,
        "name": kind,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{kind}/{column}",
                "name": column,
                "dataType": _TYPES[dtype.rstrip("?")],
                "source": {"fileObject": {"@id": path}, "extract": {"column": column}},
            }
            for column, dtype in columns.items()
        ],
    }
