"""`labelgen push`: copy a sealed store to a web server, a bucket, or the hub."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from labelgen.errors import ConfigError, CorruptStoreError, StoreError, StoreMismatchError, StoreNotFoundError
from labelgen.fingerprint import fingerprint
from labelgen.progress import Event, Listener, silent
from labelgen.store import layout
from labelgen.store.disk.atomic import FileFact
from labelgen.store.disk.files import digest_below, open_below, read_below
from labelgen.store.disk.folder import pulled
from labelgen.store.manifest import Manifest, load_manifest
from labelgen.store.remote import cache, client
from labelgen.store.remote.address import Address, parse
from labelgen.store.remote.pull import Transfer, copy_all
from labelgen.store.remote.sources import BucketSource, WebSource, hub_api
from labelgen.store.remote.storage import remote_manifest


class Target(Protocol):
    """A place that files are sent to one by one."""

    def put(self, root: Path, path: str, size: int) -> str:
        """Send a file of a store; returns its ETag there."""
        ...

    def there(self, path: str) -> str:
        """The ETag of what is there, empty where nothing is."""
        ...


def push(store: str | Path, destination: str, *, progress: Listener = silent) -> Transfer:
    """Copy a sealed store to an address. Every file is compared with the manifest before it is sent; the manifest comes
    last; an interrupted call resumes. On the hub it is one commit, in a private data set if it is a new one.

    Args:
        store: the folder of a store.
        destination: `https://...` (a server that takes `PUT`), `s3://bucket/folder`, `hf://datasets/owner/name`.

    Raises:
        StoreMismatchError: another store is there.
        CorruptStoreError: other bytes than were sealed; nothing of that file is sent.
        StoreError: a partial store, no access, or no answer.
    """
    root = Path(store).expanduser().absolute()
    manifest, address = load_manifest(root), parse(destination)
    if pulled(root)[1]:
        raise StoreError(
            f"the store at {root} is a partial one", found="arrays that were not pulled", todo="pull the rest first"
        )
    if address.scheme == "hf":
        return _push_to_hub(root, manifest, address, progress)
    source = BucketSource(address) if address.scheme == "s3" else WebSource(address)
    target: Target = _Bucket(source) if isinstance(source, BucketSource) else _Web(source)
    _refuse_other_store(source, manifest)
    journal = _Journal(address, manifest)
    copied = copy_all("push", dict(manifest.files), partial(_send, root, target, journal), progress)
    size = len(read_below(root, layout.MANIFEST))
    target.put(root, layout.MANIFEST, size)
    return Transfer(str(root), address.name, manifest.content_digest, *copied)


def _send(root: Path, target: Target, journal: _Journal, path: str, fact: FileFact) -> bool:
    sent = journal.sent.get(path)
    if sent and target.there(path) == sent:
        return False
    _refuse_damaged(root, path, fact)
    journal.add(path, target.put(root, path, fact.bytes) or target.there(path))
    return True


def _refuse_damaged(root: Path, path: str, fact: FileFact) -> None:
    try:
        sound = digest_below(root, path) == fact.blake3
    except FileNotFoundError:
        sound = False
    if not sound:
        raise CorruptStoreError(
            f"{root / path} is missing or damaged",
            found="other bytes than were sealed",
            todo="run `labelgen verify` on the store, and restore the file from a copy",
        )


def _refuse_other_store(source: WebSource | BucketSource, manifest: Manifest) -> None:
    try:
        _, there, _ = remote_manifest(source)
    except StoreNotFoundError:
        return
    if there.store_id != manifest.store_id:
        raise StoreMismatchError(
            f"another store is at {source.name('').rstrip('/')}",
            found=f"store {there.store_id}",
            expected=f"nothing, or store {manifest.store_id}",
            todo="choose another destination",
        )


class _Journal:
    """The ETags of what a push has sent, so that the next call need not send it again; a file of the cache."""

    def __init__(self, address: Address, manifest: Manifest) -> None:
        name = fingerprint([address.name, manifest.store_id, manifest.content_digest])
        self._path = cache.cache_folder() / f"push-{name}.jsonl"
        self._lock = threading.Lock()
        self.sent: dict[str, str] = {}
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8").splitlines():
                try:
                    path, validator = json.loads(line)
                except ValueError:  # cut off where the call was killed
                    continue
                self.sent[path] = validator

    def add(self, path: str, validator: str) -> None:
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([path, validator]) + "\n")


class _Web:
    """A server that takes `PUT`."""

    def __init__(self, source: WebSource) -> None:
        self._source = source

    def put(self, root: Path, path: str, size: int) -> str:
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        status, validator = client.send("PUT", self._source, path, headers, lambda: open_below(root, path))
        if status not in (200, 201, 204):
            raise _refused(self._source.name(path), f"status {status}")
        return validator

    def there(self, path: str) -> str:
        status, validator = client.send("HEAD", self._source, path, {})
        return validator if status == 200 else ""


class _Bucket:
    """A bucket of S3."""

    def __init__(self, source: BucketSource) -> None:
        self._source = source

    def put(self, root: Path, path: str, size: int) -> str:
        with open_below(root, path) as file:
            return str(self._call("put_object", path, Body=file, ContentLength=size).get("ETag", ""))

    def there(self, path: str) -> str:
        try:
            return str(self._call("head_object", path).get("ETag", ""))
        except StoreNotFoundError:
            return ""

    def _call(self, name: str, path: str, **how: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        where = {"Bucket": self._source.address.place, "Key": self._source.key(path)}
        try:
            return getattr(self._source.client(), name)(**where, **how)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in ("404", "NoSuchKey", "NotFound"):
                raise StoreNotFoundError(f"{self._source.name(path)} is not there") from None
            raise _refused(self._source.name(path), code) from None
        except BotoCoreError as error:
            raise _refused(self._source.name(path), type(error).__name__) from None


def _refused(name: str, found: str) -> StoreError:
    return StoreError(
        f"cannot write {name}", found=found, todo="check the address and your rights, then push again: it resumes"
    )


def _push_to_hub(root: Path, manifest: Manifest, address: Address, progress: Listener) -> Transfer:
    """One commit with all files; what the hub has already is not sent again."""
    if address.path:
        raise ConfigError("a data set of the hub holds one store", found=address.name, expected="no folder in it")
    api, total = hub_api(), manifest.total_bytes
    from huggingface_hub import CommitOperationAdd
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # they would be between our lines
    progress(Event("start", "push", 0, total))
    done = 0
    for path, fact in sorted(manifest.files.items()):
        _refuse_damaged(root, path, fact)
        done += fact.bytes
        progress(Event("task", "push", done, total, text=path))
    progress(Event("note", "push", text=f"{address.name}: what it lacks is sent, as one commit"))
    added = [CommitOperationAdd(path, str(root / path)) for path in (*sorted(manifest.files), layout.MANIFEST)]
    how: dict[str, Any] = {"repo_type": "dataset"}
    try:
        api.create_repo(address.place, private=True, exist_ok=True, **how)
        if address.revision:
            api.create_branch(address.place, branch=address.revision, exist_ok=True, **how)
        made = api.create_commit(
            address.place,
            added,
            commit_message=f"Label store {manifest.content_digest}",
            revision=address.revision or None,
            **how,
        )
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise _refused(address.name, type(error).__name__) from None
    progress(Event("end", "push", total, total))
    return Transfer(str(root), address.at(made.oid).name, manifest.content_digest, len(added), total)
