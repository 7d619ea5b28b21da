"""`labelgen audit`."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import completions, show
from labelgen.cli.options import common, progress_option, refuse_beside
from labelgen.cli.options import names as kind_names
from labelgen.cli.progress import counted, listening

if TYPE_CHECKING:
    from rich.console import Console

    from labelgen.audit.report.sections import Section
    from labelgen.patches.patch import Patch
    from labelgen.store.reader import Store

_TEXT_WIDTH = 60
#: Columns of a frame that the report prints, in this order; the frames have more.
_SHOWN = (
    *("rank", "score", "suspicion", "kind", "size", "similarity", "exact", "listed", "nearest", "overlap"),
    *("relation", "alias", "k", "split", "pairs_listed", "mass"),
    *("image_id", "caption_id", "text", "image_text", "other_caption_id", "other_image_id", "other_text"),
)


@click.command("audit", short_help="Find label errors: false negatives, noisy pairs, duplicates, leakage.")
@click.argument("store", type=click.Path())
@click.option(
    "--section",
    "names",
    metavar="NAME",
    multiple=True,
    shell_complete=completions.sections,
    help="Compute this section only, such as noisy_pairs. Repeatable.",
)
@click.option(
    "--top", metavar="N", type=click.IntRange(min=0), default=5, show_default=True, help="Rows printed per section."
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Rows per ranking.",
)
@click.option("--kinds", metavar="A,B", default="", help="Look at captions of these kinds only, such as human (all).")
@click.option("--out", metavar="DIR", type=click.Path(), help="Write every section as DIR/<section>.parquet.")
@click.option("--html", metavar="FILE", type=click.Path(), help="Write a page to review findings.")
@click.option(
    "--photos",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    help="Folder of the photographs for the page, if it moved.",
)
@click.option(
    "--reviewed",
    metavar="FILE",
    type=click.Path(),
    help="With --html: show the decisions of this patch, rejections too. With --patch: they win.",
)
@click.option(
    "--patch",
    metavar="FILE",
    type=click.Path(),
    help="Write the decisions of accepting all false negatives, noisy pairs and duplicates as a patch.",
)
@click.option("--check", metavar="FILE", type=click.Path(), help="Only check that a patch fits the store.")
@click.option("--clean", metavar="DIR", type=click.Path(), help="With --check: write cleaned caption files.")
@progress_option
@common
@click.pass_context
def command(
    ctx: click.Context,
    store: str,
    names: tuple[str, ...],
    top: int,
    limit: int,
    kinds: str,
    out: str | None,
    html: str | None,
    photos: str | None,
    reviewed: str | None,
    patch: str | None,
    check: str | None,
    clean: str | None,
    progress: str,
    as_json: bool,
) -> None:
    """Find probable errors in the labels of a store: false negatives, noisy pairs, duplicates, leakage between splits,
    hubs, isolated items, disagreement of teachers and coverage of batches. The most suspect rows come first.

    \b
    Examples:
      labelgen audit stores/coco
      labelgen audit stores/coco --section noisy_pairs --top 50
      labelgen audit stores/coco --kinds human --out audit/coco
      labelgen audit stores/coco --html report.html --patch proposed.parquet
      labelgen audit stores/coco --html report.html --reviewed patch.json
      labelgen audit stores/coco --check patch.json --clean data/coco-clean
    """
    from labelgen import open as open_store
    from labelgen.audit.report.sections import SECTIONS, audit_sections

    if clean is not None and check is None:
        raise click.UsageError("--clean needs a patch: add --check FILE.")
    if check is not None:
        beside = ("names", "kinds", "top", "limit", "out", "html", "photos", "reviewed", "patch")
        refuse_beside(ctx, beside, "beside --check")
    elif html is None:
        refuse_beside(ctx, ("photos",), "without --html")
        if patch is None:
            refuse_beside(ctx, ("reviewed",), "without --html or --patch")
    opened = open_store(store, kinds=kind_names(kinds) or None)
    if check is not None:
        _check(opened, check, clean, as_json)
        return
    earlier = None if reviewed is None else _checked(opened, reviewed)
    with listening(progress, as_json=as_json) as listener:
        made = audit_sections(opened, names, limit=limit)
        sections = list(counted(made, len(names or SECTIONS), "audit", listener))
    console = show.console()
    for section in sections if not as_json else ():
        _print(console, section, top)
    _write(opened, sections, out, html, photos, patch, earlier)
    written = [path for path in (out, html, patch) if path is not None]
    if as_json:
        show.emit_json({"store": opened.storage.name, "sections": [_as_json(section, top) for section in sections]})
    elif written:
        console.print()
        console.print(show.plain(f"written to {', '.join(show.shell_path(path) for path in written)}"))


def _write(
    store: Store,
    sections: list[Section],
    out: str | None,
    html: str | None,
    photos: str | None,
    patch: str | None,
    reviewed: Patch | None,
) -> None:
    """Write the sections, the page and the proposed patch, as far as the options name them."""
    from labelgen.store.disk.atomic import write_atomic

    for section in sections if out is not None else ():
        if section.frame is not None:
            path = Path(out or "") / f"{section.name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = BytesIO()
            section.frame.write_parquet(buffer)
            write_atomic(path, buffer.getvalue())
    if html is not None:
        from labelgen.audit.report.report import write_report

        write_report(store, sections, html, photos=photos, patch=reviewed)
    if patch is not None:
        from labelgen.audit.report.findings import proposals
        from labelgen.patches.patch import Patch, compose, write

        proposed = Patch.of(store, proposals(sections))
        write(proposed if reviewed is None else compose(proposed, reviewed, keep="second"), patch)


def _checked(store: Store, path: str) -> Patch:
    """Return the patch of a file, which must fit the store."""
    from labelgen.patches.patch import read, validate

    found = read(path)
    validate(found, store)
    return found


def _check(store: Store, path: str, clean: str | None, as_json: bool) -> None:
    """Check that a patch fits the store, and write cleaned caption files with `clean`."""
    from labelgen.patches.cleaned.cleaned import export_sources
    from labelgen.specs import Spec

    found = _checked(store, path)
    counts = dict(found.frame["decision"].value_counts(sort=True).iter_rows())
    checked: dict[str, Any] = {"store": store.storage.name, "patch": str(path), "decisions": counts}
    if clean is not None:
        made = store.manifest.recipe["dataset"]
        done = export_sources(found, Spec.of(made["name"], **made.get("options", {})), made.get("root") or None, clean)
        checked["cleaned"] = {"path": str(done.path), "kept": done.kept, "removed": done.removed}
    if as_json:
        show.emit_json(checked)
        return
    console = show.console()
    show.title(console, show.shell_path(path), "fits the store", "green")
    console.print(show.facts([(name, units.count(count)) for name, count in counts.items()]))
    if clean is not None:
        numbers = f"{units.count(done.kept)} captions kept, {units.count(done.removed)} removed"
        console.print(show.plain(f"written to {show.shell_path(clean)}: {numbers}"))


def _as_json(section: Section, top: int) -> dict[str, Any]:
    frame = section.frame
    return {
        "name": section.name,
        "meaning": section.meaning,
        "note": section.note,
        "seconds": round(section.seconds, 3),
        "served": frame is not None,
        "rows": 0 if frame is None else frame.height,
        "first": [] if frame is None else frame.head(top).to_dicts(),
    }


def _print(console: Console, section: Section, top: int) -> None:
    show.title(console, section.title, f"{section.meaning}  ({section.name}, {units.duration(section.seconds)})", "dim")
    if section.frame is None:
        console.print(show.plain(f"  not available: {section.note}", "yellow"), soft_wrap=True)
        return
    console.print(show.plain(f"  {section.note}"), soft_wrap=True)
    rows = section.frame.head(top)
    if not rows.height:
        console.print(show.plain("  none" if not section.frame.height else "", "dim"))
        return
    columns = [name for name in _SHOWN if name in rows.columns]
    numbers = [name for name in columns if rows.schema[name].is_numeric()]
    table = show.table(*columns, right=numbers)
    for row in rows.select(columns).iter_rows():
        table.add_row(*(show.plain(_cell(value)) for value in row))
    console.print(show.indented(table))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return show.shortened(value, _TEXT_WIDTH) if isinstance(value, str) else str(value)
