"""Machine and libraries of a build: embeddings have equal bytes on one machine class and library set."""

from __future__ import annotations

import platform
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = (
    "numpy", "torch", "torchvision", "sentence-transformers", "transformers", "open_clip_torch", "timm", "pillow",
    "zarr", "polars", "pyarrow", "dask", "openvino",
)  # fmt: skip
#: The first of them can change the bytes of an embedding.
_DECISIVE = _LIBRARIES[:8]


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Installed versions of the libraries that a build uses."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@lru_cache(maxsize=1)
def machine() -> dict[str, str]:
    """System, architecture and the widest vector units, by which numerical kernels are chosen."""
    return {"system": platform.system(), "architecture": platform.machine(), "vector_units": _vector_units()}


def machine_class(runtimes: Collection[str] = ()) -> dict[str, str]:
    """Facts that must be equal for a resume to give equal bytes; `runtimes` are libraries that run teachers."""
    installed = libraries()
    return machine() | {name: installed[name] for name in (*_DECISIVE, *runtimes) if name in installed}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16."""
    return _vector_units() in ("amx_bf16", "avx512_bf16")


def _vector_units() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    for name in ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "sve", "asimd"):
        if f" {name} " in flags or f" {name}\n" in flags:
            return name
    return "unknown"
