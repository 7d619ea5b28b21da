"""Choice of a runtime: OpenVINO where its rows agree with torch's and its bits do not depend on how it is run."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, get_args

import numpy as np

from labelgen.errors import MissingExtraError, TeacherError
from labelgen.fingerprint import canonical
from labelgen.registry import unknown
from labelgen.teachers.base import Runtime
from labelgen.teachers.compute.model_cache import is_proven, remember_proven, verdict_key
from labelgen.teachers.compute.openvino_network import RuntimeRefusedError
from labelgen.teachers.failures import first_line
from labelgen.types import Float32

_Factory = TypeVar("_Factory", bound=Callable[..., Any])

#: Largest length of the difference of two unit rows. Below what rounding to float16 does to a row, and, for bfloat16,
#: about twice what torch's own bfloat16 does.
TOLERANCE: Mapping[str, float] = {"float32": 1e-4, "bfloat16": 0.1}
#: Pictures of a small batch.
_FEW = 3
#: Verdicts of this process.
_proven = set[str]()

_SENTENCE = "a man in blue cleans the tall windows of an old house while two children watch from the wet street "
_SPECIAL = ("", "x", "Ünïcode 東京 🙂, and [MASK] <unk>!?", "A LOUD; punctuated -- line...\n\ttwo of them", "7" * 40)


def with_runtime(factory: _Factory) -> _Factory:
    """Decorator of a factory with an argument `runtime`: the teacher has the runtime that `choose` finds."""

    @wraps(factory)
    def made(**arguments: Any) -> Any:
        wanted, device = arguments.get("runtime", "torch"), arguments.get("device", "cpu")
        return choose(lambda runtime: factory(**{**arguments, "runtime": runtime}), wanted, device)

    return made  # type: ignore[return-value]  # the same arguments, by name


def choose(make: Callable[[Runtime], Any], wanted: Runtime, device: str) -> Any:
    """The teacher that `make` gives with the wanted runtime; its attribute `runtime` says which one that is.

    `auto` is OpenVINO on the CPU of an x86 machine where it is installed and `compare` finds nothing, else torch, with
    a note where it does.

    Raises:
        UnknownNameError: no such runtime.
        RuntimeRefusedError: OpenVINO is wanted, and does not convert the network or does not agree with torch.
        MissingExtraError: OpenVINO is wanted, and not installed.
    """
    if wanted not in get_args(Runtime):
        raise unknown("runtime", str(wanted), get_args(Runtime))
    if wanted == "torch" or (wanted == "auto" and not is_offered(device)):
        return make("torch")
    try:
        return _agreeing(make)
    except (RuntimeRefusedError, MissingExtraError) as error:
        if wanted == "openvino":
            raise
        teacher = make("torch")
        reason = first_line(Exception(error.found or error.what))
        teacher.notes = (*getattr(teacher, "notes", ()), f"the teacher runs with torch, not with OpenVINO: {reason}")
        return teacher


def is_offered(device: str) -> bool:
    """Whether `auto` may be OpenVINO here: on the CPU of an x86 machine, where it is installed."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "x86", "i686")
    return device == "cpu" and x86 and importlib.util.find_spec("openvino") is not None


def compare(reference: Mapping[str, Float32], made: Mapping[str, Float32], precision: str) -> None:
    """Refuse rows that are further from torch's than the tolerance.

    Raises:
        RuntimeRefusedError: names the items and the distance.
    """
    limit = TOLERANCE[precision]
    for what, rows in reference.items():
        other = made[what]
        far = np.inf if rows.shape != other.shape else np.linalg.norm(rows - other, axis=1).max(initial=0.0)
        if not far <= limit:  # also where it is not a number
            raise RuntimeRefusedError(
                f"its rows differ from torch's by up to {far:.2g} for {what}", f"a distance of at most {limit:g}"
            )


def _agreeing(make: Callable[[Runtime], Any]) -> Any:
    """The teacher with OpenVINO, compared with torch and with itself unless that was done before on this machine."""
    teacher = make("openvino")
    if getattr(teacher, "runtime", "torch") != "openvino":
        return teacher  # no network that could be converted
    identity = canonical(teacher.identity())
    key = verdict_key(identity)
    if key in _proven or is_proven(key):
        return teacher
    with _refusing():
        rows = probe_rows(teacher)
        compare(probe_rows(make("torch"), images_at_once=_FEW), rows, _precision(identity))
    with _other_threads():
        _refuse_other_bits(rows, probe_rows(make("openvino")), "compiled again, for another number of threads")
    with ThreadPoolExecutor(2) as pool:
        for again in pool.map(probe_rows, [teacher, teacher]):
            _refuse_other_bits(rows, again, "encoded by two requests at once")
    _proven.add(key)
    remember_proven(key)
    return teacher


def probe_rows(teacher: Any, images_at_once: int = 0) -> dict[str, Float32]:
    """Rows of texts and pictures of many lengths, shapes and contents, in batches of several sizes, by their names.

    `images_at_once` limits the pictures of a forward pass, and with that the memory; the batch itself if it is 0.
    """
    made = dict[str, Float32]()
    if "text" in teacher.modalities:
        for count in (1, 4, 12):
            made[f"{count} texts"] = teacher.encode_texts(_texts(count))
    if "image" in teacher.modalities:
        prepared = [teacher.prepare_image(picture) for picture in _pictures()]
        for count in sorted({1, min(_FEW, teacher.image_batch), teacher.image_batch}):
            pictures, step = (prepared * count)[:count], images_at_once or count
            passes = [teacher.encode_images(pictures[start : start + step]) for start in range(0, count, step)]
            made[f"{count} pictures"] = np.concatenate(passes)
    return made


def _texts(count: int) -> list[str]:
    """Texts of 0 to 300 words."""
    sentences = [
        " ".join((_SENTENCE * 20).split()[n : n + words]) for n, words in enumerate((12, 1, 300, 2, 30, 7, 60))
    ]
    return [*sentences[:3], *_SPECIAL, *sentences[3:]][:count]


def _pictures() -> list[Any]:
    """Noise, flat colours and slopes, upright, wide and square."""
    from PIL import Image

    draw = np.random.default_rng(1)
    noise = [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((64, 64), (90, 300), (500, 333))]
    flat = [np.full((80, 60, 3), value, np.uint8) for value in (0, 128, 255)]
    slope = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 150, 3)).copy()
    return [Image.fromarray(pixels) for pixels in (*noise, *flat, slope, slope[::-1].copy())]


def _refuse_other_bits(first: Mapping[str, Float32], second: Mapping[str, Float32], how: str) -> None:
    for what, rows in first.items():
        if not np.array_equal(rows, second[what], equal_nan=True):
            raise RuntimeRefusedError(f"other bits for {what}, {how}", "the same bits however often and by whatever")


def _precision(identity: Mapping[str, Any]) -> str:
    """The reduced precision if any side of a teacher has it."""
    sides = [identity, *(side for side in (identity.get("text"), identity.get("image")) if isinstance(side, Mapping))]
    found = {str(side["compute"]["precision"]) for side in sides if isinstance(side.get("compute"), Mapping)}
    return "bfloat16" if "bfloat16" in found else "float32"


@contextmanager
def _refusing() -> Iterator[None]:
    """Where torch fails on an item of the probe, OpenVINO may give a row of nonsense."""
    try:
        yield
    except RuntimeRefusedError:
        raise
    except TeacherError as error:
        raise RuntimeRefusedError(f"the probe fails: {first_line(Exception(error.found or error.what))}") from error


@contextmanager
def _other_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2 if before == 1 else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
