"""Paths that are not UTF-8: a store in such a folder is whole, and every answer about it is valid text."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import labelgen
from labelgen import pipeline
from labelgen.store.verify.store import verify


@pytest.fixture
def odd(sound_store: Path, tmp_path: Path) -> Path:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"\xff\xfe\x80"))
    try:
        return shutil.copytree(sound_store, path)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")


def test_a_store_in_a_folder_that_is_not_utf8_is_whole(odd: Path) -> None:
    report = verify(odd)
    assert report.problems == ()
    store = labelgen.open(odd)
    assert len(store.images) == 8
    assert store.caption_ids([0]) == ["cap-0"]
    assert repr(store).isprintable()


#: Runs several commands in one process; each answer ends with its exit code.
_COMMANDS = """
import json, sys
from labelgen.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["labelgen", *arguments]
    try:
        main()
    except SystemExit as end:
        print(f"\\0{end.code or 0}\\0", end="", flush=True)
"""


def test_every_answer_about_it_is_text(odd: Path) -> None:
    commands = [["verify", str(odd)], ["inspect", str(odd)], ["status", str(odd)], ["diff", str(odd), str(odd)]]
    jobs = json.dumps([[*command, *extra] for command in commands for extra in ([], ["--json"])])
    done = subprocess.run([sys.executable, "-c", _COMMANDS, jobs], capture_output=True, check=False, timeout=120)
    answers = done.stdout.decode("utf-8").split("\0")
    assert answers[1::2] == ["0"] * 8, done.stderr.decode(errors="replace")[-2000:]
    assert all(json.loads(text) for text in answers[2:-1:4])


def test_odd_names_inside_are_named(odd: Path) -> None:
    name = os.fsdecode(b"caf\xe9\xff.txt")
    (odd / name).write_text("x")
    (problem,) = verify(odd).problems
    assert problem.file == name
    assert "not listed" in problem.what
    assert str(verify(odd)).replace("\n", "").isprintable()


def test_an_error_about_it_is_text(odd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labelgen", "inspect", odd / "nowhere", "--json"], capture_output=True, check=False
    )
    assert done.returncode == 5
    assert json.loads(done.stderr.decode("utf-8"))["exit_code"] == 5


def test_photos_named_so_are_no_alarm(tmp_path: Path) -> None:
    """A data set whose photographs lie in such a folder is built and verified like any other."""
    from small_builds import config, table

    root = table(Path(os.fsdecode(os.fsencode(tmp_path / "plain"))))
    odd_out = Path(os.fsdecode(os.fsencode(tmp_path / "out") + b"\xff"))
    pipeline.build(config(root), odd_out)
    assert pipeline.verify(odd_out, deep=True).ok
