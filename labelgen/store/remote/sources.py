"""Sources of stores: a web server, a bucket of S3, a data set of the hub. Each finds its credentials where its client
looks for them."""

from __future__ import annotations

import base64
import logging
import netrc
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, urlsplit

from labelgen.errors import ConfigError, StoreError, StoreNotFoundError, requires
from labelgen.store.remote.address import Address, is_loopback, parse
from labelgen.store.remote.answers import Source

#: Seconds that a signed address is good for, and after which another one is made.
_SIGNED, _USED = 3600, 900


def source_of(text: str) -> Source:
    """The source at an address; of the hub one of a commit, whatever its branch does later.

    Raises:
        ConfigError: no address of a store, or a password that would travel in the open.
        StoreNotFoundError: the hub has no such data set or revision.
        MissingExtraError: the client of the address is not installed.
    """
    address = parse(text)
    if address.scheme == "s3":
        return BucketSource(address)
    return HubSource(pinned(address)) if address.scheme == "hf" else WebSource(address)


@dataclass(frozen=True)
class WebSource:
    """A folder of a web server. User and password come from the address or `~/.netrc`."""

    address: Address

    def __post_init__(self) -> None:
        if (self.address.user or self.address.query) and not self._is_safe():
            raise ConfigError(
                f"{self.address.name} would get credentials over plain http",
                expected="https, or a server on this machine",
            )

    def url(self, path: str) -> str:
        """See `Source`."""
        query = f"?{self.address.query}" if self.address.query else ""
        inner = "/".join(part for part in (self.address.path, quote(path)) if part)
        return f"{self.address.scheme}://{self.address.place}/{inner}{query}"

    def headers(self) -> Mapping[str, str]:
        """See `Source`."""
        user, password = self.address.user, self.address.password
        if not user and self._is_safe():
            user, password = _from_netrc(urlsplit(self.address.name).hostname or "")
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        return {"Authorization": f"Basic {basic}"} if user else {}

    def name(self, path: str) -> str:
        """See `Source`."""
        return self.address.file(path)

    def region(self, headers: Mapping[str, str]) -> bool:
        """See `Source`."""
        return False

    def _is_safe(self) -> bool:
        return self.address.scheme == "https" or is_loopback(urlsplit(self.address.name).hostname or "")


@dataclass(frozen=True)
class BucketSource:
    """A folder of a bucket. botocore finds credentials, region and endpoint, and signs addresses."""

    address: Address
    _held: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __reduce__(self) -> tuple[object, tuple[Address]]:
        return type(self), (self.address,)

    def url(self, path: str) -> str:
        """See `Source`."""
        signed, until = self._held.get(path, ("", 0.0))
        if until < time.monotonic():
            how = {"Bucket": self.address.place, "Key": self.key(path)}
            signed = self.client().generate_presigned_url("get_object", Params=how, ExpiresIn=_SIGNED)
            self._held[path] = (signed, time.monotonic() + _USED)
        return str(signed)

    def headers(self) -> Mapping[str, str]:
        """See `Source`."""
        return {}

    def name(self, path: str) -> str:
        """See `Source`."""
        return self.address.file(path)

    def key(self, path: str) -> str:
        """The name of a file in the bucket."""
        return f"{self.address.path}/{path}" if self.address.path else path

    def region(self, headers: Mapping[str, str]) -> bool:
        """See `Source`."""
        region = headers.get("x-amz-bucket-region", "")
        if not region or region == self.client().meta.region_name:
            return False
        self._held.clear()
        self._held["region"] = region
        return True

    def client(self) -> Any:
        """The client of this process."""
        name = f"client of {os.getpid()}"
        if name not in self._held:
            with requires("botocore", "remote", "reading a store in a bucket"):
                import botocore.session
                from botocore.config import Config
                from botocore.exceptions import BotoCoreError
            for logger in ("auth", "endpoint"):  # their debug log has whole requests, with session tokens
                log = logging.getLogger(f"botocore.{logger}")
                if _above_debug not in log.filters:
                    log.addFilter(_above_debug)
            session = botocore.session.Session()
            try:
                region = self._held.get("region") or session.get_config_variable("region") or "us-east-1"
                signature = "s3v4" if session.get_credentials() else botocore.UNSIGNED
                self._held[name] = session.create_client(
                    "s3", region_name=region, config=Config(signature_version=signature)
                )
            except (BotoCoreError, ValueError) as error:
                raise StoreError(f"cannot reach {self.address.name}", found=type(error).__name__) from error
        return self._held[name]


@dataclass(frozen=True)
class HubSource:
    """A data set of the hub at one commit; huggingface_hub knows the token and the endpoint."""

    address: Address

    def url(self, path: str) -> str:
        """See `Source`."""
        inner = "/".join(part for part in (self.address.path, path) if part)
        return f"{endpoint()}/datasets/{self.address.place}/resolve/{self.address.revision}/{quote(inner)}"

    def headers(self) -> Mapping[str, str]:
        """See `Source`."""
        import huggingface_hub

        token = huggingface_hub.get_token()
        return {"Authorization": f"Bearer {token}"} if token else {}

    def name(self, path: str) -> str:
        """See `Source`."""
        return self.address.file(path)

    def region(self, headers: Mapping[str, str]) -> bool:
        """See `Source`."""
        return False


def _above_debug(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


@lru_cache
def _from_netrc(host: str) -> tuple[str, str]:
    try:
        found = netrc.netrc().authenticators(host)
    except (OSError, netrc.NetrcParseError):
        found = None
    return (found[0], found[2] or "") if found else ("", "")


def endpoint() -> str:
    """The address of the hub: `HF_ENDPOINT`, or that of Hugging Face."""
    with requires("huggingface_hub", "remote", "reading a store of the hub"):
        from huggingface_hub import constants
    return str(constants.ENDPOINT).rstrip("/")


def hub_api() -> Any:
    """The client of the hub."""
    with requires("huggingface_hub", "remote", "reading a store of the hub"):
        import huggingface_hub
    return huggingface_hub.HfApi(endpoint=endpoint())


def pinned(address: Address) -> Address:
    """The address with the commit that its revision is now."""
    api = hub_api()
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise StoreError(f"cannot reach {address.name}", found="HF_HUB_OFFLINE=1, which forbids every request")
    if re.fullmatch(r"[0-9a-f]{40}", address.revision):
        return address
    try:
        found = api.repo_info(address.place, repo_type="dataset", revision=address.revision or None).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise StoreNotFoundError(
            f"the hub has no {address.name}",
            found=type(error).__name__,
            todo="check owner, name and revision; a private data set needs a token (hf auth login)",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise StoreError(
            f"cannot reach {address.name}",
            found=type(error).__name__,
            todo="check the network and the token",
        ) from error
    return address.at(str(found))
