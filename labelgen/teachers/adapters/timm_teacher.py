"""Image teachers by timm: any of its networks, with the preprocessing that timm records for the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from labelgen.errors import TeacherError, requires, shown, some
from labelgen.teachers.adapters.vision import ImageTower, split
from labelgen.teachers.base import Decode, Precision, Runtime, TeacherInfo, described
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import with_runtime
from labelgen.teachers.identity import file_settings, settings
from labelgen.teachers.weights import loading, unused_notes, weight_hash


@described(
    TeacherInfo(
        summary="any timm network, pooled features, its own preprocessing",
        modalities=("image",),
        example="timm(model='vit_base_patch14_dinov2.lvd142m')",
        offline="with checkpoint='weights.safetensors', or model='local-dir:folder'",
    )
)
@with_runtime
def timm(
    *,
    model: str,
    checkpoint: str | None = None,
    precision: Precision = "float32",
    batch: int = 32,
    block: int = 256,
    runtime: Runtime = "torch",
    decode: Decode = "full",
    device: str = "cpu",
) -> ImageTower:
    """An image teacher.

    Args:
        model: timm's name (`vit_base_patch14_dinov2.lvd142m`), `hf-hub:owner/name` or `local-dir:folder`.
        checkpoint: file with the weights (.safetensors, .pth); otherwise those that timm knows for `model`. Random
            weights are not offered: another process would draw others.
        precision, batch, block, runtime, decode, device: see `labelgen.teachers.compute.Compute`.

    Raises:
        TeacherError: the network or its weights cannot be loaded.
        UnknownNameError: an unknown precision.
    """
    compute = Compute(precision, batch, block, device, runtime, decode)
    with requires("timm", "build", f"the image teacher {model!r}"):
        import timm as library
        import torch
    with loading("timm", checkpoint or model):
        network = library.create_model(model, pretrained=checkpoint is None, num_classes=0)
        notes = _load(network, checkpoint) if checkpoint is not None else []
        config = library.data.resolve_data_config({}, model=network)
        transform = library.data.create_transform(**config, is_training=False)
        written = _settings(model)
    facts = {
        "weights": weight_hash(network.state_dict()),
        "image": {key: config[key] for key in sorted(config)},
        "settings": {"network": type(network).__name__, "pool": str(getattr(network, "global_pool", "")), **written},
    }
    prepare, scaling = split(transform)
    placed = compute.place(network.to(memory_format=torch.channels_last))
    return ImageTower(placed, prepare, scaling, compute=compute, facts=facts, notes=notes)


def _settings(model: str) -> dict[str, Any]:
    """Settings in the file of a model that is not one of timm's names, which imply theirs."""
    kind, _, place = model.partition(":")
    if kind == "local-dir":
        return {"config.json": file_settings(Path(place) / "config.json")}
    if kind in ("hf-hub", "hf_hub"):
        from timm.models import load_model_config_from_hf

        config, name, arguments = load_model_config_from_hf(place)
        return {"architecture": name, "model_args": settings(arguments), "pretrained_cfg": settings(config)}
    return {}


def _load(network: Any, checkpoint: str) -> list[str]:
    """Weights of a file, none of which may be missing; a sentence on tensors (of a classifier) that are left out."""
    from timm.models import load_state_dict

    state = load_state_dict(checkpoint, weights_only=True)
    loaded = network.load_state_dict(state, strict=False)
    missing = loaded.missing_keys
    if missing:
        raise TeacherError(
            f"{shown(checkpoint)} does not have the weights of this network",
            found=f"no tensors {some(missing)}",
            expected=f"all {len(network.state_dict())} tensors of {type(network).__name__}",
        )
    return unused_notes(checkpoint, loaded.unexpected_keys)
