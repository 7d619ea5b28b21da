"""Image teachers by the transformers library: ViT, DINOv2, the image side of CLIP and SigLIP, with their processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from labelgen.errors import TeacherError, requires
from labelgen.fingerprint import canonical
from labelgen.registry import unknown
from labelgen.teachers.adapters.vision import ImageTower
from labelgen.teachers.base import Decode, Precision, Runtime, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.identity import settings
from labelgen.teachers.weights import Checkpoint, loading, weight_hash, without_bars

if TYPE_CHECKING:
    import torch

Pool: TypeAlias = Literal["default", "cls", "mean"]


@described(
    TeacherInfo(
        summary="vision towers of transformers: ViT, DINOv2, CLIP, SigLIP ...",
        modalities=("image",),
        example="transformers(model='facebook/dinov2-base')",
        offline="with a local folder",
    )
)
@with_runtime
def transformers(
    *,
    model: str,
    pool: Pool = "default",
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    runtime: Runtime = "torch",
    decode: Decode = "full",
    device: str = "cpu",
) -> ImageTower:
    """An image teacher.

    Args:
        model: hub name or local folder with a network and its image processor. Code in the folder is refused.
        pool: `default`: the image features of a dual encoder (CLIP, SigLIP); else the network's pooled output where the
            checkpoint holds its weights; else the class token. `cls`: the class token. `mean`: the mean of all tokens
            but registers.
        precision, batch, block, runtime, decode, device: see `labelgen.teachers.compute.Compute`.

    Raises:
        TeacherError: the network cannot be loaded, its checkpoint lacks weights, it has not what `pool` takes, or it
            gives other rows when it encodes an image again.
        UnknownNameError: an unknown precision or pool.
    """
    compute = Compute(precision, batch, block, device, runtime, decode)
    if pool not in get_args(Pool):
        raise unknown("pool", str(pool), get_args(Pool))
    with requires("transformers", "build", f"the image teacher {model!r}"):
        from transformers import AutoImageProcessor, AutoModel
    checkpoint = Checkpoint()
    with loading("transformers", model), without_bars():
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        network, report = AutoModel.from_pretrained(model, trust_remote_code=False, output_loading_info=True)
        checkpoint.add(report)
        written, _ = type(network.config).get_config_dict(model)
    # An unused pooler may be random: it is not taken then.
    checkpoint.refuse_random(model, lambda name: name.startswith("pooler."))
    features = _Features(compute.place(network), pool, pooled=not checkpoint.missing)
    described_pixels = processor.to_dict().items()
    pixels = {key: value for key, value in described_pixels if value is not None and key != "image_processor_type"}
    facts = {
        "weights": weight_hash(network.state_dict(), without=checkpoint.missing),
        "network": type(network).__name__,
        "pool": features.pooling,
        "image": {"processor": type(processor).__name__, **canonical(pixels)},
        "settings": settings(written),
    }
    notes = checkpoint.notes(model)

    def prepare(image: Any) -> Any:
        return processor(images=image, return_tensors="np")["pixel_values"][0]

    return ImageTower(features, prepare, None, compute=compute, facts=facts, notes=notes)


#: What networks call the parameter of their class token.
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding", "cls_embedding", "cls_tokens"})


class _Features:
    """pixel_values -> [b, dim], whatever the network calls its output.

    Tokens come in the order class token, registers, patches; a network may have neither of the first two.
    """

    def __init__(self, network: Any, pool: Pool, *, pooled: bool) -> None:
        self._network, self._pool, self._pooled = network, pool, pooled
        tower = getattr(network, "vision_model", network)
        names = {name.rpartition(".")[2] for name, _ in tower.named_parameters()}
        config = getattr(tower, "config", None)
        self._class = bool(names & _CLASS_TOKENS)
        self._registers = int(getattr(config, "num_register_tokens", 0) or 0)
        if pool == "cls":
            self._require_class()

    @property
    def pooling(self) -> str:
        """The pool as identities have it: registers were averaged once, such a store must not be resumed."""
        without = self._pool == "mean" and self._registers
        return f"mean without {self._registers} registers" if without else self._pool

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        if self._pool == "default" and hasattr(self._network, "get_image_features"):
            return _tensor(self._network.get_image_features(pixel_values=pixels))
        tower = getattr(self._network, "vision_model", self._network)
        output = tower(pixel_values=pixels)
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if self._pool == "default" and self._pooled and pooled is not None:
            return pooled.flatten(start_dim=1)
        tokens: torch.Tensor = output.last_hidden_state
        if tokens.ndim != 3:
            raise TeacherError(
                f"this network has no tokens for pool={self._pool!r}",
                found=f"an output of shape {list(tokens.shape)}",
                todo="pool='default', where the network has pooled features",
            )
        if self._pool == "mean":
            return self._without_registers(tokens).mean(dim=1)
        self._require_class()
        return tokens[:, 0]

    def _without_registers(self, tokens: torch.Tensor) -> torch.Tensor:
        import torch

        first = int(self._class)
        if not self._registers:
            return tokens
        return torch.cat([tokens[:, :first], tokens[:, first + self._registers :]], dim=1)

    def _require_class(self) -> None:
        if not self._class:
            raise TeacherError(
                f"{type(self._network).__name__} has no class token for pool={self._pool!r}",
                found="the first token is a patch of the picture like all others",
                expected="a network with a class token",
                todo="pool='mean'" if self._pool == "default" else "pool='default' or pool='mean'",
            )


def _tensor(output: Any) -> torch.Tensor:
    """Release 5 returns an output object whose `pooler_output` are the features, release 4 the features."""
    features: torch.Tensor = getattr(output, "pooler_output", output)
    return features
