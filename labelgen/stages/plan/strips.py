"""How the search of a product is cut into strips within the memory of a worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labelgen import registry
from labelgen.config import BuildConfig, RunConfig
from labelgen.errors import BudgetError
from labelgen.executors.base import worker_settings
from labelgen.similarity.base import Strip
from labelgen.similarity.row_order import lay_out, layouts, schedule
from labelgen.specs import Spec
from labelgen.stages.model import tables
from labelgen.stages.plan.build_plan import ProductPlan
from labelgen.stages.running.worker import WorkerSettings, search_memory
from labelgen.stages.work.search import plan_of


def strips_of(root: Path, config: BuildConfig, product: ProductPlan) -> list[tuple[int, Strip]]:
    """Strips with the number of their layout.

    Raises:
        BudgetError: the smallest strip needs more memory than a worker has.
    """
    settings = worker_settings(config.run, config.search.engine)
    plan = plan_of(
        root,
        product.corpus.folder,
        product.alias,
        product.product,
        [item.to_json() for item in product.lists],
        product.dim,
        search_memory(settings[0].memory),
        product.corpus.generation,
    )
    old = product.corpus.new.image if product.bases else 0
    spans = tables.split_spans(root / product.corpus.folder)
    orders = layouts(spans, [item.scope for item in product.lists])
    engine = registry.create("engine", Spec.parse(config.search.engine), device="cpu")
    with budget_of(config.run, settings):
        return [
            (number, strip)
            for number, order in enumerate(orders)
            for strip in schedule(engine.schedule(lay_out(plan, order)), order, old)
        ]


@contextmanager
def budget_of(run: RunConfig, settings: Sequence[WorkerSettings]) -> Iterator[None]:
    """Refusals of a budget in the words of the command line."""
    try:
        yield
    except BudgetError as error:
        left = search_memory(settings[0].memory)
        raise BudgetError(
            error.what,
            found=f"--memory {run.memory} for {len(settings)} workers leaves {left:,} bytes",
            expected=error.expected,
            todo="raise --memory, take fewer --workers, or lower k",
        ) from error
