"""Addresses of stores at a distance: `https://`, `http://`, `s3://` and `hf://`, and how messages write them.

What a message, a repr, a log or a file shows of an address is its `name`, which has no user, password or query.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from labelgen.errors import ConfigError, shown

SCHEMES = ("https", "http", "s3", "hf")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
#: What is left of an address that went through `pathlib`.
_HALVED = re.compile(r"(https?|s3|hf):/[^/]")
_HUB = re.compile(r"datasets/([\w.-]+/[\w.-]+?)(?:@([\w.%-]+))?(?:/(.*))?")
_BUCKET = re.compile(r"[A-Za-z0-9][\w.-]{1,254}")


@dataclass(frozen=True)
class Address:
    """A parsed address.

    Attributes:
        scheme: one of `SCHEMES`.
        name: the address without secrets, no slash at its end.
        place: host and port, bucket, or `owner/name` of a data set.
        path: below the place; no slash at its ends.
        revision: of a data set on the hub; empty elsewhere, and for its main branch.
        user, password, query: secrets of a URL.
    """

    scheme: str
    name: str
    place: str
    path: str = ""
    revision: str = ""
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    query: str = field(default="", repr=False)

    def at(self, revision: str) -> Address:
        """The same place on the hub at a revision."""
        name = f"hf://datasets/{self.place}@{quote(revision, safe='')}" + (f"/{self.path}" if self.path else "")
        return Address(self.scheme, name, self.place, self.path, revision)

    def file(self, path: str) -> str:
        """How messages call a file of the store."""
        return f"{self.name}/{path}"


def is_address(place: object) -> bool:
    """Whether something names a store at a distance, not a folder.

    Raises:
        ConfigError: an address that was made a `Path`, which takes one of its slashes away.
    """
    if isinstance(place, Path) and was_address(place):
        raise ConfigError("an address is not a path", found=f"Path({hidden(str(place))!r})", todo="pass it as text")
    return isinstance(place, str) and _SCHEME.match(place) is not None


def was_address(path: Path) -> bool:
    """Whether a path is an address that went through `pathlib`."""
    return _HALVED.match(str(path)) is not None


def hidden(text: str) -> str:
    """An address, of any form, without what may be secret in it."""
    plain = re.split(r"[?#]", text, maxsplit=1)[0]
    return (
        re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*:/+)[^/]*@(?=[^/]*)", r"\1", plain) if not plain.startswith("hf:") else plain
    )


def parse(text: str) -> Address:
    """An address from its text.

    Raises:
        ConfigError: another scheme, or an address that names no store.
    """
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise ConfigError(
            f"stores are not read over {shown(scheme)}",
            found=hidden(text),
            expected="https://, s3:// or hf://datasets/owner/name@revision",
            todo="give the folder as a plain path" if scheme == "file" else "",
        )
    if any(ord(mark) < 33 or ord(mark) == 127 for mark in text) or "\\" in text:
        raise ConfigError("an address holds a space or a control character", found=hidden(text))
    if scheme == "hf":
        return _hub(text)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError("this is no address", found=hidden(text)) from error
    path = _inner(parts.path, text)
    if scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc) or parts.query:
            raise ConfigError("this names no bucket", found=hidden(text), expected="s3://bucket/folder")
        return Address(scheme, f"s3://{parts.netloc}" + (f"/{path}" if path else ""), parts.netloc, unquote(path))
    if not host:
        raise ConfigError("an address without a host", found=hidden(text), expected=f"{scheme}://host/folder")
    place = (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
    secrets = unquote(parts.username or ""), unquote(parts.password or ""), parts.query
    return Address(scheme, f"{scheme}://{place}" + (f"/{path}" if path else ""), place, path, "", *secrets)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or number."""
    return host == "localhost" or _number(host, "is_loopback")


def is_private(host: str) -> bool:
    """Whether a host is this machine, or a number inside of a network that the internet does not reach."""
    return is_loopback(host) or _number(host, "is_private") or _number(host, "is_link_local")


def _number(host: str, what: str) -> bool:
    import ipaddress

    try:
        return bool(getattr(ipaddress.ip_address(host.strip("[]")), what))
    except ValueError:
        return False


def _hub(text: str) -> Address:
    found = _HUB.fullmatch(text.partition("://")[2].rstrip("/"))
    if found is None:
        raise ConfigError(
            "this names no data set of the hub", found=hidden(text), expected="hf://datasets/owner/name@revision"
        )
    path = _inner(found[3] or "", text)
    return (
        Address("hf", "", found[1], path).at(unquote(found[2]))
        if found[2]
        else Address("hf", f"hf://datasets/{found[1]}" + (f"/{path}" if path else ""), found[1], path)
    )


def _inner(path: str, text: str) -> str:
    """The path of an address, without the name of the manifest."""
    path = path.strip("/").removesuffix("manifest.json").strip("/")
    if any(part in ("", ".", "..") for part in unquote(path).split("/")) and path:
        raise ConfigError("an address has an empty or dotted part in its path", found=hidden(text))
    return path
