"""Runs on disk, one file each: a run that is there is not done again, so that a long comparison can be split."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from comparison.measures import Kept
from comparison.training import Budget


def run_path(folder: Path, text: str, budget: Budget, seed: int) -> Path:
    """Where a run lies: the method's name, a hash of everything that it depends on besides the data, and the seed."""
    digest = blake2b(json.dumps([text, asdict(budget)]).encode(), digest_size=5).hexdigest()
    return folder / f"{text.partition('(')[0]}-{digest}-{seed}.npz"


def save(path: Path, kept: Kept, about: dict[str, Any]) -> None:
    """Write a run at once, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **compact(kept))
    part.replace(path)


def load(path: Path) -> tuple[Kept, dict[str, Any]]:
    """A run, and what is known about it."""
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    return kept, json.loads(str(kept.pop("about")))


def compact(kept: Kept) -> Kept:
    """Ranks need two bytes; scores keep the bits of float32."""
    return {
        name: array.astype(np.uint16 if np.issubdtype(array.dtype, np.integer) else np.float32)
        for name, array in kept.items()
    }
