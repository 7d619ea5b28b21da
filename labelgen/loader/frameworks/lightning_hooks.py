"""Lightning: soft labels added in a hook of a module or data module. Lightning itself is not imported.

In most projects `SoftLabelCollate` in the DataLoader is better: it needs no change in Lightning and runs in the
workers. The mixin is for loaders that cannot be changed::

    class Model(SoftLabelMixin, LightningModule):
        def __init__(self, store):
            super().__init__()
            self.add_soft_labels = AddSoftLabels(store, tensors=True)
"""

from __future__ import annotations

from typing import Any

from labelgen.errors import ConfigError
from labelgen.loader.batches import AddSoftLabels


class SoftLabelMixin:
    """Adds soft labels to every batch before Lightning moves it to the device, so that they move with it.

    Set `add_soft_labels`; leave batches of some kind alone by overriding `wants_soft_labels`.
    """

    add_soft_labels: AddSoftLabels | None = None

    def wants_soft_labels(self, batch: Any, dataloader_idx: int) -> bool:
        """Whether a batch gets labels: all do."""
        return True

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Lightning's hook; those of the other bases run first."""
        outer = getattr(super(), "on_before_batch_transfer", None)
        batch = outer(batch, dataloader_idx) if outer is not None else batch
        if self.add_soft_labels is None:
            raise ConfigError(
                f"{type(self).__name__} has no soft labels to add",
                todo="set self.add_soft_labels = AddSoftLabels(store, tensors=True) in __init__",
            )
        return self.add_soft_labels(batch) if self.wants_soft_labels(batch, dataloader_idx) else batch
