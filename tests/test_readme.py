"""What the README and the docs show is run: code blocks, names, links, and the examples of extensions."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import labelgen
from labelgen import registry

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
#: Pages whose Python blocks work on `stores/demo`.
RUN = ["README.md", "docs/formats.md", "docs/methods.md", "docs/audit.md", "docs/loader.md"]
RUN += ["docs/query.md", "docs/card.md", "docs/patches.md", "docs/quickstart.md", "docs/training.md"]
#: Page -> packages whose released training code it runs.
NEEDS = {
    "docs/training.md": ("open_clip_train.main", "transformers", "datasets", "accelerate", "sentence_transformers")
}
#: Pages whose blocks are the files of an outside package.
EXTENSIONS = [f"docs/extend/{kind}.md" for kind in ("dataset", "teacher", "scheme", "engine")]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Contents of the fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


def write_own_data(folder: Path) -> None:
    """20 photographs of the demo set with their captions, as the quickstart describes them."""
    import polars as pl

    from labelgen.corpus.adapters.demo import Demo

    read = Demo(None).read()
    assert read.photos is not None
    files = {image.image_id: str(image.file) for image in list(read.images)[:20]}
    rows = [
        {"image_id": item.image_id, "file_name": files[item.image_id], "caption": item.text, "split": "train"}
        for item in read.captions
        if item.image_id in files
    ]
    folder.mkdir(parents=True)
    pl.DataFrame(rows).write_csv(folder / "captions.csv")
    (folder / "images").symlink_to(read.photos)


def test_every_entrance_of_the_quickstart_is_short() -> None:
    """At most ten lines an entrance; three from a frame to a gallery of false negatives."""
    codes = blocks("docs/quickstart.md", "python")[:5]
    assert [len([line for line in code.splitlines() if line.strip()]) <= 10 for code in codes] == [True] * 5
    assert sum("frame" in code or "show(" in code for code in codes[1].splitlines()) == 3


@pytest.mark.parametrize("page", [page for page in RUN if page not in NEEDS])
def test_code_runs_on_the_demo_store(
    page: str, demo_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_stores(tmp_path, demo_store)
    write_own_data(tmp_path / "data" / "mine")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    found = blocks(page, "python")
    assert found
    for code in found:
        exec(compile(code, page, "exec"), names)  # noqa: S102 - our own documentation


@pytest.mark.parametrize("page", NEEDS)
def test_code_runs_with_other_libraries(page: str, demo_store: Path, tmp_path: Path) -> None:
    """In a process of its own: these programs set seeds, loggers and threads."""
    for name in NEEDS[page]:
        pytest.importorskip(name.partition(".")[0])
    in_stores(tmp_path, demo_store)
    (tmp_path / "page.py").write_text("\n".join(blocks(page, "python")), encoding="utf-8")
    run(tmp_path, "-W", "ignore", "page.py")


def in_stores(folder: Path, store: Path) -> None:
    (folder / "stores").mkdir()
    for name in ("demo", "mine"):
        (folder / "stores" / name).symlink_to(store)


def test_readme_says_what_the_code_gives(demo_store: Path) -> None:
    """The shapes and facts in the comments of the README's example."""
    store = labelgen.open(demo_store)
    images, captions = ["189775", "255165", "431848"], ["588639", "761383", "450527"]
    assert store.block("i2t", images, captions).shape == (3, 3)
    assert (store.block("t2t", caption_ids=captions).diagonal() == 1).all()
    owner = store.image_of(store.caption_rows(captions))
    assert (store.image_rows(images) == owner).all()
    tree = re.search(r"```\nstores/demo/\n(.*?)```", text_of("README.md"), re.DOTALL)
    assert tree is not None
    for name in re.findall(r"^  (\S+)|(?<=  )([\w.]+/)(?=\s)", tree[1], re.MULTILINE):
        path = next(filter(None, name))
        assert any((demo_store / folder / path).exists() for folder in ("", "neighbors")), path


def test_the_table_of_the_quickstart_is_read(tmp_path: Path) -> None:
    from labelgen.corpus.adapters.table import Table

    (table,) = blocks("docs/quickstart.md", "csv")
    (tmp_path / "captions.csv").write_text(table, encoding="utf-8")
    records = Table(tmp_path).read()
    assert [(image.image_id, image.split, image.file) for image in records.images] == [
        ("k1", "train", "kitchen/001.jpg"),
        ("b7", "val", "beach/007.jpg"),
    ]
    assert records.captions[1].text == "A grey cat, curled up on a chair"


def test_the_story_is_true(demo_store: Path) -> None:
    """Rows and numbers that docs/story.md tells of caption 588639 and image 189775."""
    store, story = labelgen.open(demo_store), " ".join(text_of("docs/story.md").split())
    image, caption = int(store.image_rows(["189775"])[0]), int(store.caption_rows(["588639"])[0])
    assert store.captions["text"][caption] in story
    assert f"image_row {image}," in story
    assert image - store.splits["val"].start == 12, "the thirteenth of val"
    captions = store.captions_of(image)
    assert f"{captions[0]} to {captions[-1]}" in story
    assert (len(captions), len(store.splits["train"])) == (5, 26)
    assert store.block("i2t", ["189775"], ["588639"]).item() == 1
    assert not set(store.neighbors("t2t", ["588639"]).rows[0].tolist()) & set(captions.tolist())


def test_every_page_of_code_is_run() -> None:
    """A Python block in a page that no test runs would rot."""
    assert {page for page in PAGES if blocks(page, "python")} <= {*RUN, *EXTENSIONS}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("page", PAGES)
def test_named_files_and_modules_exist(page: str) -> None:
    """`labelgen/.../x.py`, `room/x.py` and dotted names in a page are those of the code."""
    for name in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml|json))`", text_of(page)):
        places = [ROOT / name, ROOT / "labelgen" / name]
        assert any(path.exists() for path in places) or name.startswith(("corpus/index", "data/")), f"{page}: {name}"
    for name in re.findall(r"`labelgen\.((?:[a-z_]+\.)*[a-z_]+)`", text_of(page)):
        parts = name.split(".")
        modules = [ROOT / "labelgen" / "/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        public = len(parts) == 1 and name in labelgen.__all__
        found = any(path.is_dir() or path.with_suffix(".py").exists() for path in modules)
        assert public or found or name in registry.GROUPS.values() or f"labelgen.{name}" in registry.GROUPS.values(), (
            name
        )


@pytest.mark.parametrize("page", EXTENSIONS)
def test_helpers_of_extensions_exist(page: str) -> None:
    """Every helper that a page of `docs/extend` lists can be imported and has a docstring."""
    table = text_of(page).partition("## Helpers\n")[2].partition("\n## ")[0]
    names = re.findall(r"`(labelgen(?:\.\w+)+|labelgen/[\w/]+\.py)`", table)
    assert names
    for name in names:
        if name.endswith(".py"):
            assert (ROOT / name).is_file(), name
            continue
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


@pytest.mark.parametrize(("kind", "page"), [("dataset", "docs/datasets.md"), ("teacher", "docs/teachers.md")])
def test_everything_registered_is_described(kind: str, page: str) -> None:
    for name in registry.names(kind):
        assert f"`{name}" in text_of("README.md"), name
        assert re.search(rf"^#+ `?{name}\b", text_of(page), re.MULTILINE) or f"`{name}" in text_of(page), name


def test_no_page_speaks_of_this_machine() -> None:
    for page in PAGES:
        assert not re.search(r"(?<!\w)/(home|root|work|Users)/", text_of(page)), page


def test_extensions_of_the_docs_work_from_outside(tmp_path: Path) -> None:
    """The package that the extension pages make, installed the way pip would: used by name on the command line."""
    entry_points: dict[str, dict[str, str]] = {}
    tests: list[str] = []
    for page in EXTENSIONS:
        for code in blocks(page, "python"):
            name = re.match(r"# (\w+\.py)\n", code)
            assert name, f"{page}: a block without the name of its file"
            tests += [name[1]] * name[1].startswith("test_")
            (tmp_path / name[1]).write_text(code, encoding="utf-8")
        for block in blocks(page, "toml"):
            entry_points |= tomllib.loads(block)["project"]["entry-points"]
    write_distribution(tmp_path, entry_points)
    (data := tmp_path / "data").mkdir()
    (data / "pairs.txt").write_text(PAIRS, encoding="utf-8")

    assert "pairs" in command(tmp_path, "datasets")
    assert "letters" in command(tmp_path, "teachers")
    built = json.loads(
        command(
            tmp_path, "build", "--dataset", "pairs", "--root", str(data), "--out", str(tmp_path / "store"),
            "--teacher", "text=letters(dim=64)", "--engine", "plain", "--json",
        )
    )  # fmt: skip
    assert (built["images"], built["captions"]) == (3, 4)
    assert built["lists"] == ["neighbors/t2t.text.k64", "neighbors/i2t.text.k64", "neighbors/t2i.text.k64"]
    assert len(tests) == len(EXTENSIONS)
    run(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "-o", "addopts=", *tests)


PAIRS = """\
1.jpg | a dog on a beach
1.jpg | a brown dog runs
2.jpg | two people at a table
3.jpg | a red bus
"""


def write_distribution(folder: Path, entry_points: dict[str, dict[str, str]]) -> None:
    """What `pip install` leaves behind of a package, as far as names are concerned."""
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n", encoding="utf-8")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in names.items())
        for group, names in entry_points.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def command(folder: Path, *arguments: str) -> str:
    return run(folder, "-m", "labelgen", *arguments)


def run(folder: Path, *arguments: str) -> str:
    """Python with `folder` on its path; its standard output."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout
