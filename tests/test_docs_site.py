"""The documentation site: built strictly where its tools are installed; the API reference is complete in any case."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("mkdocs", "material", "mkdocstrings")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_docstring(hooks: ModuleType) -> None:
    assert hooks.undocumented() == []


def test_the_reference_lists_every_package_with_public_names(hooks: ModuleType) -> None:
    listed = {module for _, modules in hooks.REFERENCE.values() for module in modules}
    public = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "labelgen").rglob("__init__.py")
        if "__all__" in path.read_text(encoding="utf-8")
    }
    assert public <= listed


def test_public_names_are_those_of_the_packages(hooks: ModuleType) -> None:
    import labelgen
    from labelgen import audit, export, loader, losses, patches, relevance, store, testing

    for package in (labelgen, audit, export, loader, losses, patches, relevance, store, testing):
        modules = {name for name in package.__all__ if isinstance(getattr(package, name), ModuleType)}
        names = set(package.__all__) - modules - {"__version__"}
        assert set(hooks.places(package.__name__)) >= names


def test_a_name_without_a_docstring_is_found(hooks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import ast

    tree = ast.parse('class Bare:\n    x = 1\n\n\ndef told():\n    """Is documented."""\n')
    monkeypatch.setattr(hooks, "REFERENCE", {"page": ("title", ("labelgen.made",))})
    monkeypatch.setattr(
        hooks, "places", lambda _module: {name: f"labelgen.made.{name}" for name in hooks.defined(tree)}
    )
    monkeypatch.setattr(hooks, "tree_of", lambda _module: tree)
    assert hooks.undocumented() == ["labelgen.made.Bare"]


@pytest.mark.parametrize(
    ("page", "link", "moved"),
    [
        ("index.md", "[x](docs/extend/teacher.md#rules)", "[x](extend/teacher.md#rules)"),
        ("index.md", "[x](CONTRIBUTING.md)", "[x](contributing.md)"),
        ("index.md", "[x](docker/compose.yaml)", "x"),
        ("examples.md", "[x](../docs/compare.md)", "[x](compare.md)"),
        ("extend/dataset.md", "[x](../datasets.md)", "[x](../datasets.md)"),
        ("training.md", "[x](../examples/README.md)", "[x](examples.md)"),
        ("training.md", "[x](#here) [y](https://example.org)", "[x](#here) [y](https://example.org)"),
    ],
)
def test_links_are_those_of_the_site(hooks: ModuleType, page: str, link: str, moved: str) -> None:
    from types import SimpleNamespace

    assert hooks.on_page_markdown(link, SimpleNamespace(file=SimpleNamespace(src_uri=page))) == moved


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in TOOLS),
    reason='the site needs its tools: pip install ".[docs]"; .ci/docs builds it',
)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "reference" / "labelgen.html").is_file()
