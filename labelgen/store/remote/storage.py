"""The files of a store at a distance: whole ones are kept in the cache, large arrays are read by ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from labelgen.errors import CorruptStoreError, StoreError, StoreMismatchError, StoreNotFoundError
from labelgen.fingerprint import digest, fingerprint
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact, atomic_file, write_atomic
from labelgen.store.disk.files import MAX_JSON_BYTES
from labelgen.store.disk.mapped import CheckedArray, MappedArray
from labelgen.store.disk.shards import crc32c, shard_index
from labelgen.store.guard import Guard
from labelgen.store.layout import ArraySpec
from labelgen.store.manifest import Manifest, manifest_of
from labelgen.store.remote import arrays, cache, client
from labelgen.store.remote.answers import Source, Wanted
from labelgen.store.remote.sources import source_of
from labelgen.types import Int64

#: A file of more bytes is written while it is read.
_LARGE = 16 << 20


class RemoteStorage:
    """Files and arrays of one store at a distance, as its manifest names them.

    Attributes:
        place: the source of them, which `open` takes to open the store again.
        name: the address without secrets.
        root: folder of the cache with whole files, under the names that they have in the store.
        ranges: folder of the cache with parts of shards.
    """

    def __init__(self, source: Source, folder: Path, files: Mapping[str, FileFact], index: Mapping[str, ArraySpec]):
        self.place, self.name = source, source.name("").rstrip("/")
        self.root, self.ranges = folder / "files", folder / "ranges"
        self._files, self._index = files, index

    def need(self, paths: Iterable[str]) -> None:
        """Fetch whole files that are not in the cache, and compare them with the manifest.

        Raises:
            StoreMismatchError: a file is no longer there.
            CorruptStoreError: other bytes than were sealed.
            StoreError: no answer.
        """
        absent = [path for path in dict.fromkeys(paths) if not self._is_here(path)]
        large = [path for path in absent if path not in self._index and self._files[path].bytes > _LARGE]
        wanted = [self._wanted(path) for path in absent if path not in large]
        try:
            for item, answer in client.read_all(wanted) if wanted else ():
                self._keep(item.path, answer.data)
            for path in large:
                download(self.place, path, self._files[path], self.root / path)
        except StoreNotFoundError as error:
            raise StoreMismatchError(
                f"the store at {self.name} was changed after it was opened: {error.what}", todo="open it again"
            ) from error
        cache.added(sum(self._files[path].bytes for path in absent))

    def array(self, spec: ArraySpec, guard: Guard) -> MappedArray:
        """An array of the store. Those of the index are fetched whole, all of them at once."""
        if spec.path not in {item.path for item in self._index.values()}:
            return arrays.RemoteArray(self.place, self.ranges, spec, guard.hashed)
        self.need(self._index)
        return (CheckedArray if guard.hashed else MappedArray)(self.root, spec, guard)

    def fetch(self, wanted: Iterable[tuple[MappedArray, Int64]]) -> None:
        """See `labelgen.store.remote.arrays.fetch`."""
        arrays.fetch(wanted)

    def _is_here(self, path: str) -> bool:
        kept = self.root / path
        try:
            here = kept.stat().st_size == self._files[path].bytes
        except OSError:
            return False
        except KeyError as error:
            raise StoreError(f"the store at {self.name} has no file {path}") from error
        cache.touch(kept)
        return here

    def _wanted(self, path: str) -> Wanted:
        """The request for a file; of an array of the index its rows are enough, the rest follows from them."""
        spec, fact = self._index.get(path), self._files[path]
        if spec is None or not spec.shape[0]:
            return Wanted(self.place, path, fact.bytes)
        return Wanted(self.place, path, fact.bytes, 0, spec.shape[0] * spec.row_bytes)

    def _keep(self, path: str, data: bytes) -> None:
        spec = self._index.get(path)
        if spec is not None and spec.shape[0]:
            chunk = data + bytes(spec.chunk_bytes - len(data))
            data = chunk + crc32c(chunk) + shard_index(spec, 1)
        if digest(data) != self._files[path].blake3:
            raise damaged(self.place.name(path))
        write_atomic(self.root / path, data)


def damaged(name: str) -> CorruptStoreError:
    """The error for a file with other bytes than the manifest lists."""
    return CorruptStoreError(
        f"{name} is damaged",
        found="other bytes than were sealed",
        todo="its owner has to upload the store again; `labelgen verify` names the rows",
    )


def download(source: Source, path: str, fact: FileFact, target: Path) -> None:
    """Write a file of a store below a folder, if it has the bytes that the manifest lists; raises as `need` does."""
    with atomic_file(target) as file:
        client.stream(Wanted(source, path, fact.bytes), file.write)
        if file.fact != fact:
            raise damaged(source.name(path))


def remote_manifest(place: str | Source) -> tuple[Source, Manifest, bytes]:
    """The source at an address, its manifest, and the bytes of it.

    Raises:
        StoreNotFoundError: no store there.
        StoreFormatError, CorruptStoreError: see `load_manifest`.
        StoreError: no answer.
    """
    source = source_of(place) if isinstance(place, str) else place
    try:
        raw = client.read(Wanted(source, layout.MANIFEST, MAX_JSON_BYTES)).data
    except StoreNotFoundError as error:
        raise StoreNotFoundError(
            f"there is no store at {source.name('').rstrip('/')}", found=error.found, todo="check the address"
        ) from error
    return source, manifest_of(raw, source.name("").rstrip("/")), raw


def open_remote(place: str | Source) -> tuple[RemoteStorage, Manifest]:
    """The storage and the manifest of a store at a distance; raises as `remote_manifest` does."""
    source, manifest, raw = remote_manifest(place)
    key = fingerprint([source.name(""), digest(raw)])
    folder = cache.cache_folder() / key
    kept = folder / "files" / layout.MANIFEST
    if not kept.is_file() or kept.read_bytes() != raw:
        write_atomic(kept, raw)
    specs = manifest.corpus.arrays().values()
    index = {spec.shard_path(0): spec for spec in specs if spec.n_shards == 1}
    return RemoteStorage(source, folder, manifest.files, index), manifest
