"""`labelgen inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import completions, show
from labelgen.cli.options import common, refuse_beside
from labelgen.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from labelgen.store.inspect import Item, NeighborList
    from labelgen.store.reader import Store

_CAPTION_WIDTH = 88


@click.command("inspect", short_help="Show the contents of a store, or an item with its neighbours.")
@click.argument("path", type=click.Path())
@click.option("--image", metavar="ID", help="An image: its captions, its neighbours.")
@click.option("--caption", metavar="ID", help="A caption: its image, its neighbours.")
@click.option(
    "--relation",
    metavar="NAME",
    multiple=True,
    shell_complete=completions.relations,
    help="Only this list: i2t, or i2t.text. Repeatable.",
)
@click.option("--k", metavar="N", type=int, help="Neighbours of each list (5).")
@click.option(
    "--examples",
    metavar="N",
    type=click.IntRange(min=0),
    help="Random images to show (3).",
)
@click.option(
    "--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the examples."
)
@common
@click.pass_context
def command(
    ctx: click.Context,
    path: str,
    image: str | None,
    caption: str | None,
    relation: tuple[str, ...],
    k: int | None,
    examples: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Show the contents of a store with some examples, or one image or caption with its neighbours.

    \b
    Examples:
      labelgen inspect stores/coco
      labelgen inspect stores/coco --image 391895 --relation i2t --k 10
      labelgen inspect stores/coco --caption 770337 --json
    """
    from labelgen import open as open_store
    from labelgen.store import inspect

    if image is not None and caption is not None:
        raise ConfigError("--image and --caption exclude each other", todo="give one of them")
    if image is not None or caption is not None:
        refuse_beside(ctx, ("examples", "seed"), "beside --image or --caption")
    store = open_store(path)
    if image is not None:
        item = inspect.inspect_image(store, image, relations=relation, k=k)
    elif caption is not None:
        item = inspect.inspect_caption(store, caption, relations=relation, k=k)
    else:
        if relation or k is not None:
            raise ConfigError("--relation and --k need an item", todo="give --image or --caption too")
        _overview(store, inspect.examples(store, count=3 if examples is None else examples, seed=seed), as_json)
        return
    show.emit_json(item.to_json()) if as_json else _print_item(show.console(), item)


def _overview(store: Store, items: list[Item], as_json: bool) -> None:
    from labelgen.store.inspect import overview

    facts = overview(store)
    if as_json:
        show.emit_json({**facts, "examples": [item.to_json() for item in items]})
        return
    console = show.console()
    show.title(console, show.shell_path(store.storage.name))
    console.print(show.facts(_overview_facts(facts)))
    for item in items:
        _print_item(console, item)


def _overview_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from labelgen.store.describe import training_text

    splits = ", ".join(f"{name} {units.count(rows)}" for name, rows in facts["splits"].items())
    teachers = (
        f"{alias} = {entry['spec']}  {' and '.join(entry['modalities'])}, {entry['dim']} numbers"
        for alias, entry in facts["teachers"].items()
    )
    reasons = "\n".join(f"{units.count(row['count'])} {row['reason']} ({row['stage']})" for row in facts["quarantined"])
    return [
        ("data set", facts["dataset"]),
        ("images", f"{units.count(facts['images'])} ({splits})"),
        ("captions", f"{units.count(facts['captions'])}, {units.count(facts['texts'])} different texts"),
        *(
            [("kinds", ", ".join(f"{kind} {units.count(n)}" for kind, n in facts["kinds"].items()))]
            if "kinds" in facts
            else []
        ),
        *([("groups of images", units.count(facts["groups"]))] if "groups" in facts else []),
        *([("read", show.ledger(facts["ledger"]))] if facts["ledger"] else []),
        ("teachers", "\n".join(teachers)),
        *((f"trained {alias}", training_text(facts_of)) for alias, facts_of in facts["trained"].items()),
        ("neighbours", show.lists(facts["neighbors"], facts["notes"])),
        ("quarantined", reasons or "none"),
        ("size", units.size(facts["bytes"])),
        ("stages", show.stages(facts["stages"])),
        ("sealed", f"{facts['created']} by labelgen {facts['labelgen']}"),
        ("content digest", facts["content_digest"]),
    ]


def _print_item(console: Console, item: Item) -> None:
    console.print()
    console.rule(show.plain(f"{item.kind} {item.id}", "bold"), align="left", style="dim")
    console.print(show.facts(_facts(item)))
    for listed in item.lists:
        console.print()
        console.print(show.plain(_title(listed), "bold"))
        console.print(_neighbors(listed))


def _facts(item: Item) -> list[tuple[str, Any]]:
    pixels = f" ({item.width} x {item.height})" if item.width and item.height else ""
    facts = [("image", item.image_id)] if item.kind == "caption" else []
    facts += [("file", f"{item.file}{pixels}")] if item.file else []
    facts += [("split", item.split), ("row", str(item.row))]
    facts += [("category", item.category)] if item.category else []
    facts += [("group", item.group)] if item.group else []
    facts += [("status", item.status)] if item.status != "ok" else []
    for number, caption in enumerate(item.captions):
        label = "text" if item.kind == "caption" else "captions"
        bad = "" if caption.status == "ok" else f"  [{caption.status}]"
        named = "" if item.kind == "caption" else f"  ({caption.caption_id})"
        named += f"  {caption.kind}" if caption.kind else ""
        facts.append(("" if number else label, f"{caption.text}{named}{bad}"))
    return facts


def _title(listed: NeighborList) -> str:
    kind = "images" if listed.relation.endswith("i") else "captions"
    where = "of the other splits" if listed.scope == "cross" else "of other images of the split"
    how = f", {listed.aggregation} over captions" if listed.relation in ("i2t", "t2i") else ""
    over = f", over captions of kinds {', '.join(listed.kinds)}" if listed.kinds else ""
    return f"{listed.relation} by {listed.alias}: nearest {kind} {where}{how}{over}"


def _neighbors(listed: NeighborList) -> Any:
    if not listed.neighbors:
        return show.plain("  none", "dim")
    images = listed.relation.endswith("i")
    table = show.table("", "similarity", "image" if images else "caption", "text", "file", right=["", "similarity"])
    for rank, neighbor in enumerate(listed.neighbors, 1):
        text, file = show.plain(show.shortened(neighbor.text, _CAPTION_WIDTH)), show.plain(neighbor.file or "", "dim")
        table.add_row(str(rank), f"{neighbor.score:.4f}", show.plain(neighbor.id), text, file)
    return table
