"""`labelgen build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from labelgen import units
from labelgen.cli import completions, exits, show
from labelgen.cli.flags import dataset_of, in_flags, refuse_other_adapters
from labelgen.cli.options import (
    RecipeCommand,
    common,
    config_of,
    overrides,
    progress_option,
    recipe_options,
    teacher_pairs,
    with_objects,
)
from labelgen.cli.progress import listening
from labelgen.errors import ConfigError

if TYPE_CHECKING:
    from labelgen.pipeline import BuildReport
    from labelgen.progress import Listener


@click.command("build", cls=RecipeCommand, short_help="Make a store, or resume one that was stopped.")
@recipe_options
@click.option("--out", metavar="FOLDER", type=click.Path(), help="The store (stores/<dataset>).")
@click.option("--fresh", is_flag=True, help="Delete the store in --out, sealed or not, and build it again.")
@click.option("--discard", is_flag=True, help="Delete unfinished work in --out; keep the sealed store.")
@click.option("--update", is_flag=True, help="Add to the sealed store in --out what this recipe adds.")
@click.option("--append", is_flag=True, help="Append the new images of a data set to the sealed store in --out.")
@click.option(
    "--add-teacher",
    "added",
    metavar="ALIAS=SPEC",
    multiple=True,
    shell_complete=completions.teachers,
    help="Add a teacher to the sealed store. Repeatable.",
)
@click.option(
    "--add-relation",
    "added_relations",
    metavar="NAME",
    multiple=True,
    shell_complete=completions.relations,
    help="Add a relation to the sealed store. Repeatable.",
)
@click.option(
    "--drop",
    metavar="NAME",
    multiple=True,
    help="Drop a teacher (by alias) or lists (t2t, t2t.text, t2t.text.k64). Repeatable.",
)
@click.option("--allow-other-machine", is_flag=True, help="Resume work from another kind of machine.")
@click.option("--plan", is_flag=True, help="Estimate a new store first, and keep the estimate beside the times.")
@progress_option
@common
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Embed all captions and images, find the neighbours of every row, and seal the store.

    Options that are not given come from the recipe, then from the defaults in parentheses. Run the same command again
    to resume a build that was stopped. On a finished store it checks that the data set is unchanged.

    \b
    Examples:
      labelgen build --dataset demo
      labelgen build --dataset coco --root data/coco --teacher text='mpnet()' --memory 8GB
      labelgen build --file captions.csv --photos photos --teacher text=my_module:make_teacher --out stores/mine
      labelgen build --dataset flickr30k --root data/f30k --no-teacher image --workers 2
      labelgen build --file captions.csv --image-column filepath --caption-column title --photos pics --out stores/mine
      labelgen build --out stores/coco --add-teacher clip="open_clip(model='ViT-B-32', pretrained='openai')"
      labelgen build --out stores/coco --refine "siamese(of='text')"
      labelgen build --out stores/coco --update --k 128
      labelgen build --out stores/coco --drop i2t.text
      labelgen build --dataset coco --root data/coco --patch patch.parquet --out stores/coco-clean
      labelgen build --out stores/coco --append --root data/more
    """
    _check(options)
    with listening(options["progress"], as_json=options["as_json"]) as progress:
        if options["append"]:
            report = _appended(ctx, options, progress)
        else:
            report = _changed(ctx, options, progress) if _is_addition(options) else _built(ctx, options, progress)
    if options["as_json"]:
        show.emit_json(report.to_json())
    else:
        _print(report)
    if options["strict"] and report.quarantined:
        ctx.exit(exits.NO)


def _is_addition(options: dict[str, Any]) -> bool:
    """Whether the options change the recipe of the store, without another recipe or data set."""
    named = options["dataset"] or options["recipe"] or options["file"]
    updated = options["update"] or options["refined"]
    dropped = options["drop"] and not options["update"]
    return bool(options["added"] or options["added_relations"] or dropped or (updated and not named))


def _check(options: dict[str, Any]) -> None:
    if options["append"] and (
        options["update"] or options["recipe"] or options["dropped"] or options["drop"] or _is_addition(options)
    ):
        raise ConfigError("--append uses the recipe of the store unchanged", todo="change the store before or after it")
    if options["plan"] and (options["append"] or options["update"] or _is_addition(options)):
        raise ConfigError("--plan estimates a new store", todo="leave it out of a change")
    if options["append"] and not options["out"]:
        raise ConfigError("--append needs the store", todo="name it with --out")
    if options["fresh"] and (options["update"] or options["discard"] or options["append"] or _is_addition(options)):
        raise ConfigError("--fresh deletes the store", todo="leave out the options that keep or change it")
    if _is_addition(options) and not (options["out"] or dataset_of(options)):
        raise ConfigError("a change needs the store", todo="name it with --out")
    if _is_addition(options) and options["dropped"]:
        raise ConfigError("--no-teacher leaves a teacher out of a recipe", todo="remove one from a store with --drop")


def _built(ctx: click.Context, options: dict[str, Any], progress: Listener) -> BuildReport:
    from labelgen import pipeline

    options |= with_objects(options)
    config = config_of(options)
    options["strict"] = config.run.strict
    out = options["out"] or f"stores/{config.dataset.name}"
    _note_resume(ctx, out, options["fresh"])
    return pipeline.build(
        config,
        out,
        teachers=options["objects"],
        progress=progress,
        fresh=options["fresh"],
        discard=options["discard"],
        update=options["update"],
        **_dropping(options),
        allow_other_machine=options["allow_other_machine"],
        plan=bool(options["plan"]),
    )


def _changed(ctx: click.Context, options: dict[str, Any], progress: Listener) -> BuildReport:
    from labelgen import pipeline

    out = options["out"] or f"stores/{dataset_of(options)}"
    _note_resume(ctx, out, fresh=False)
    added = with_objects({"teachers": options["added"]})["objects"]
    return pipeline.add(
        out,
        teachers={**teacher_pairs(options["added"]), **added},
        relations=options["added_relations"],
        overrides=overrides(options),
        **_dropping(options),
        progress=progress,
        discard=options["discard"],
        allow_other_machine=options["allow_other_machine"],
    )


def _dropping(options: dict[str, Any]) -> dict[str, Any]:
    return {"drop": options["drop"]} if options["drop"] else {}


def _appended(ctx: click.Context, options: dict[str, Any], progress: Listener) -> BuildReport:
    from labelgen import pipeline
    from labelgen.store.manifest import load_manifest

    options |= with_objects(options)
    options["teachers"] = [
        text for text in options["teachers"] if text.partition("=")[0].strip() not in options["objects"]
    ]
    dataset = dataset_of(options)
    refuse_other_adapters(options, dataset or load_manifest(Path(options["out"])).recipe["dataset"]["name"])
    _note_resume(ctx, options["out"], fresh=False)
    return pipeline.append(
        options["out"],
        dataset=dataset,
        teachers=options["objects"],
        overrides=overrides(options),
        progress=progress,
        discard=options["discard"],
        allow_other_machine=options["allow_other_machine"],
    )


def _note_resume(ctx: click.Context, out: str, fresh: bool) -> None:
    again = "the same command without --fresh" if fresh else "the same command"
    left = f"labelgen status {show.shell_path(out)}"
    ctx.meta["labelgen.resume"] = f"finished tasks are kept, {again} resumes (`{left}` shows what is done)"


def _print(report: BuildReport) -> None:
    console = show.console()
    path = show.shell_path(report.path)
    state = "sealed" if report.changed else "was sealed already, nothing to do"
    if report.changed and report.appended:
        state = f"sealed, {units.count(report.appended)} images appended"
    show.title(console, path, state, "green")
    console.print(show.facts(_facts(report)))
    if report.quarantined:
        console.print(_quarantine(report))
    show.notes(console, map(in_flags, report.notes))
    show.title(console, "where to look next")
    for line in (f"labelgen inspect {path}", f"labelgen verify {path}"):
        console.print(show.plain(f"  {line}"), soft_wrap=True)
    console.print(show.plain(f"  >>> import labelgen; store = labelgen.open({str(report.path)!r})"), soft_wrap=True)


def _facts(report: BuildReport) -> list[tuple[str, Any]]:
    from labelgen.store.describe import training_text

    splits = ", ".join(f"{name} {units.count(rows)}" for name, rows in report.splits.items())
    teachers = "\n".join(f"{alias} = {spec}" for alias, spec in report.teachers.items())
    facts = [
        ("images", f"{units.count(report.images)} ({splits})"),
        ("captions", f"{units.count(report.captions)}, {units.count(report.texts)} different texts"),
        *([("read", show.ledger(report.ledger))] if report.ledger else []),
        ("teachers", teachers),
        ("neighbours", show.lists(report.lists, report.list_notes)),
        *([("removed", "\n".join(report.removed))] if report.removed else []),
        ("quarantined", units.count(sum(report.quarantined.values()))),
        ("size", units.size(report.bytes)),
    ]
    facts += [(f"trained {alias}", training_text(facts_of)) for alias, facts_of in report.trained.items()]
    if report.changed:
        facts += [
            ("time", units.duration(report.seconds)),
            ("stages", show.stages(report.stages)),
            ("peak memory", units.size(report.peak_bytes)),
        ]
    return [*facts, ("content digest", report.content_digest)]


def _quarantine(report: BuildReport) -> Any:
    table = show.table("quarantined", "stage", "reason", right=["quarantined"])
    for key, number in sorted(report.quarantined.items()):
        stage, _, reason = key.partition(": ")
        table.add_row(units.count(number), show.plain(stage), show.plain(reason))
    return table
