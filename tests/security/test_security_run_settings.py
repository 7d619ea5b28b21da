"""How and where a store was built is no instruction: executor, scheduler, workers, memory and device of a manifest."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from small_builds import table

from labelgen import config as configs
from labelgen import pipeline
from labelgen.errors import ConfigError
from labelgen.store.manifest import load_manifest

EVIL = {
    "executor": "dask", "workers": 999, "threads": 999, "memory": "1B", "device": "cuda:7",
    "scheduler": "tcp://127.0.0.1:1", "strict": True,
}  # fmt: skip


@pytest.fixture
def listening() -> Any:
    """A port, and whether anyone connected to it."""
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[object] = []

    def accept() -> None:
        try:
            seen.append(server.accept())
        except OSError:
            return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], seen
    server.close()


def _forged(store: Path, port: int) -> None:
    import json

    from labelgen.fingerprint import fingerprint

    document = json.loads((store / "manifest.json").read_text())
    document["recipe"]["run"] = {**EVIL, "scheduler": f"tcp://127.0.0.1:{port}"}
    del document["manifest_digest"]
    document["manifest_digest"] = fingerprint(document)
    (store / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("command", ["add", "append", "verify --deep", "build again", "status"])
def test_nothing_of_run_is_taken_from_a_manifest(built: tuple[Path, Path], listening: Any, command: str) -> None:
    root, store = built
    port, seen = listening
    _forged(store, port)
    if command == "add":
        pipeline.add(store, k=2)
    elif command == "append":
        table(root, extra=1)
        assert pipeline.append(store).appended == 1
    elif command == "verify --deep":
        assert pipeline.verify(store, deep=True).ok
    elif command == "build again":
        from small_builds import config

        pipeline.build(config(root), store)
    else:
        pipeline.status(store)
    assert not seen, "somebody connected to the address in the manifest"
    if command in ("add", "append"):
        assert load_manifest(store).recipe["run"] == configs.from_dict({"dataset": {"name": "demo"}}).to_dict()["run"]


def test_what_the_caller_says_counts(built: tuple[Path, Path], listening: Any) -> None:
    _root, store = built
    _forged(store, listening[0])
    pipeline.add(store, k=2, overrides=['run.memory="2GB"', "run.threads=1", 'search.engine="numpy"'])
    run = load_manifest(store).recipe["run"]
    assert (run["memory"], run["threads"], run["executor"], run["scheduler"]) == ("2GB", 1, "local", "")


def test_a_recipe_file_names_no_scheduler(tmp_path: Path) -> None:
    recipe = tmp_path / "evil.toml"
    recipe.write_text('[dataset]\nname = "demo"\n[run]\nexecutor = "dask"\nscheduler = "tcp://evil:8786"\n')
    with pytest.raises(ConfigError, match="--scheduler"):
        pipeline.resolve(recipe=str(recipe))
    recipe.write_text('[dataset]\nname = "demo"\n[run]\nexecutor = "dask"\nscheduler = ""\nworkers = 2\n')
    assert pipeline.resolve(recipe=str(recipe)).run.workers == 2
    given = pipeline.resolve(recipe=str(recipe), overrides=['run.scheduler="tcp://mine:8786"'])
    assert given.run.scheduler == "tcp://mine:8786"
