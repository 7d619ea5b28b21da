"""Teachers that the caller gives as Python objects: `as_teacher`, and the spec that names them in a recipe.

The spec is `object(identity='...', name='...')`. A store never brings an object with it: whoever resumes, appends or
verifies gives it again, and another identity is refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from labelgen import given
from labelgen.errors import ConfigError, SpecError, TeacherError, shown
from labelgen.fingerprint import canonical, fingerprint
from labelgen.registry import unknown
from labelgen.specs import Spec
from labelgen.teachers.adapters.crossmodal import CrossModal
from labelgen.teachers.base import ImageTeacher, Precision, Runtime, Teacher, TextTeacher
from labelgen.teachers.compute import Compute
from labelgen.teachers.compute.choice import choose
from labelgen.teachers.compute.openvino_network import RuntimeRefusedError
from labelgen.teachers.failures import foreign, reason_of
from labelgen.teachers.objects.describe import UnclearError, describe, is_module
from labelgen.teachers.objects.encoders import ObjectImages, ObjectTexts
from labelgen.types import Modality

#: `package.module:name`, perhaps with keyword literals.
_REFERENCE = re.compile(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*\s*(?:\(.*\))?)\s*", re.DOTALL)
_TEXT_BLOCK, _IMAGE_BLOCK, _TEXT_BATCH, _IMAGE_BATCH = 2048, 256, 32, 16
_HOW = (
    "give a text that changes whenever the rows do: labelgen.as_teacher(model, identity='my encoder, v1'), "
    "or a method `identity()` of the object"
)


class GivenTeacher:
    """A teacher made of a Python object; see `as_teacher`."""

    def __init__(self, model: Any, *, name: str, modality: Modality | None, identity: Any, **options: Any) -> None:
        self.model, self.name, self.modality = model, name, modality
        self._options, self._made = options, dict[str, Any]()
        # Found once, by the caller's process: in another one a class of a script has another name.
        self._facts = {"name": name, **_identity_facts(model, name, identity, options["preprocess"])}
        made = self.make("cpu")  # a wrong object is refused here, whether or not its identity is stated
        found, self.runtime = made.identity(), str(getattr(made, "runtime", "torch"))
        options["runtime"] = self.runtime  # workers do not choose again
        stated = identity if isinstance(identity, str) else fingerprint(identity)[:16]
        self.spec = given.spec_of(stated or fingerprint(canonical(found))[:16], name, self.runtime)

    @property
    def module(self) -> str:
        return str(getattr(self.model, "__module__", ""))

    def make(self, device: str) -> Any:
        """The teacher on a torch device. Networks are copied: the caller's own stays as it is, and may be trained."""
        if device not in self._made:
            options = {name: value for name, value in self._options.items() if name != "runtime"}
            self._made[device] = choose(
                lambda runtime: _teacher_of(self.model, self.modality, device, self._facts, runtime=runtime, **options),
                self._options["runtime"],
                device,
            )
        return self._made[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": {}}


class GivenFactory(GivenTeacher):
    """A teacher made by a function of a module, which worker processes call themselves."""

    def __init__(self, reference: str, alias: str) -> None:
        self.reference, self.alias = reference, alias
        made = _given(_called(reference), alias)
        self._inner: GivenTeacher | None = made
        self.spec = given.spec_of(made.spec.arguments["identity"], reference, made.runtime)

    @property
    def module(self) -> str:
        return self.reference.partition(":")[0]

    def make(self, device: str) -> Any:
        if self._inner is None:
            self._inner = _given(_called(self.reference), self.alias)
            if self._inner.spec.arguments["identity"] != self.spec.arguments["identity"]:
                raise TeacherError(
                    f"{self.reference} makes another teacher in a worker process",
                    found=str(self._inner.spec),
                    expected=str(self.spec),
                    todo="make a function that gives the same model whenever it is called",
                )
        return self._inner.make(device)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_inner": None}


def as_teacher(
    model: Any,
    *,
    modality: Modality | None = None,
    identity: str | Mapping[str, Any] = "",
    preprocess: Callable[[Any], Any] | None = None,
    tokenizer: Callable[[list[str]], Any] | None = None,
    precision: Precision = "float32",
    batch: int = 0,
    block: int = 0,
    runtime: Runtime = "torch",
    name: str = "",
) -> GivenTeacher:
    """A frozen encoder of the caller as a teacher, for `teachers=` of `build`, `plan`, `add`, `append` and `verify`.

    Args:
        model: an object with `encode_texts(texts)` or `encode_images(images)` that returns one vector for each item
            (and perhaps `prepare_image(image)`, which runs in decoding threads); a SentenceTransformer; a timm model; a
            torch module, with `preprocess` for images or `tokenizer` for texts (an open_clip model with both is one
            cross-modal teacher); or a plain function of a list of texts or of RGB images (PIL).
        modality: `text` or `image`, where the model could be both or is a function.
        identity: a text, or plain JSON data, that changes whenever the rows could. Made of class, version, settings,
            preprocessing and weights if it is empty; a plain function needs one. An `identity` of the object, a method
            or a text, is used as well.
        preprocess: one RGB image -> tensor [3, h, w].
        tokenizer: list of texts -> tokens that the module takes.
        precision: dtype of a torch module.
        batch, block: items of one forward pass, and of one task; they are part of the identity.
        runtime: `torch`, `openvino`, or `auto`, which is one of them on this machine; of a torch module or a
            SentenceTransformer. Part of the identity and of the spec.
        name: how messages and the recipe name it; the name of the class or function if empty.

    Returns:
        A teacher whose `spec` is recorded in the store. Networks are copied, so that the caller's model is not changed.

    Raises:
        ConfigError: the object cannot be used, or has no identity; the message says what to give.
        TeacherError: it does not give the same rows for the same items.
    """
    if isinstance(model, GivenTeacher):
        return model
    if model is None or isinstance(model, str | Spec | type):
        made = isinstance(model, type) and "give an object of the class: " + model.__name__ + "(...)"
        raise ConfigError(
            f"{shown(model)} is not a model",
            todo=made or "give an object, or leave the alias out; specs and 'module:factory' go into teachers=",
        )
    own = getattr(model, "identity", "")
    given_identity = identity or (own() if callable(own) else own)
    if not isinstance(given_identity, str | Mapping):
        raise ConfigError(f"the identity of {shown(model)} is not a text or plain data", found=shown(given_identity))
    return GivenTeacher(
        model,
        name=name or _name(model),
        modality=modality,
        identity=given_identity,
        preprocess=preprocess,
        tokenizer=tokenizer,
        precision=precision,
        batch=batch,
        block=block,
        runtime=runtime,
    )


def resolve_teachers(teachers: Mapping[str, Any]) -> tuple[dict[str, Spec], dict[str, given.Given]]:
    """Specs by alias, and the objects behind them by the text of their specs.

    Args:
        teachers: alias -> a spec (text or `Spec`), `module:factory`, or an object (see `as_teacher`).

    Raises:
        SpecError, ConfigError: not a spec; a module or factory that does not exist; an object without an identity.
    """
    if not isinstance(teachers, Mapping):
        raise ConfigError(
            "teachers are not named",
            found=shown(teachers),
            expected='a mapping from aliases, for example {"text": "minilm()", "image": model}',
        )
    specs, objects = dict[str, Spec](), dict[str, given.Given]()
    for alias, teacher in teachers.items():
        if isinstance(teacher, str) and not is_reference(teacher):
            specs[alias] = Spec.parse(teacher)
        elif isinstance(teacher, Spec):
            specs[alias] = teacher
        else:
            made = teacher_of_reference(teacher, alias) if isinstance(teacher, str) else _given(teacher, alias)
            specs[alias] = made.spec
            objects[str(made.spec)] = made
    return specs, objects


def teacher_of_reference(reference: str, alias: str) -> GivenTeacher:
    """The teacher that `module:factory` makes; the factory is called here and in every worker process.

    Raises:
        ConfigError, SpecError: no such module or function, or it makes no teacher.
        TeacherError: the factory fails.
    """
    return GivenFactory(reference.strip(), alias)


def is_reference(text: str) -> bool:
    """Whether a text is `module:factory`, which names code: taken from the caller alone, never from a file."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def _given(teacher: Any, alias: str) -> GivenTeacher:
    """The object of an alias; `text` and `image` say what an object of both modalities, or a function, is used for."""
    if isinstance(teacher, GivenTeacher):
        return teacher
    return as_teacher(teacher, modality=alias if alias in ("text", "image") else None)  # type: ignore[arg-type]


def _called(reference: str) -> Any:
    matched = _REFERENCE.fullmatch(reference)
    if matched is None:
        raise SpecError("this is not module:factory", found=shown(reference), expected="my_module:make_teacher")
    place, call = matched[1], Spec.parse(matched[2]) if "." not in matched[2].partition("(")[0] else None
    if call is None:
        raise SpecError(f"{reference!r} names an attribute of an attribute", expected="module:function")
    try:
        module = importlib.import_module(place)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigError(
            f"cannot import {place!r} for a teacher",
            found=reason_of(error),
            todo="run in the folder of the module, or install it",
        ) from error
    if not callable(getattr(module, call.name, None)):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown(f"factory in {place}", call.name, names)
    with foreign(f"{reference} does not make a teacher", todo="it is called with the arguments that stand behind it"):
        return getattr(module, call.name)(**call.arguments)


def _name(model: Any) -> str:
    named = model if hasattr(model, "__qualname__") else type(model)
    return f"{named.__module__}.{named.__qualname__}"


def _teacher_of(
    model: Any,
    modality: Modality | None,
    device: str,
    facts: Mapping[str, Any],
    *,
    preprocess: Any,
    tokenizer: Any,
    precision: Precision,
    batch: int,
    block: int,
    runtime: Runtime,
) -> Any:
    """The teacher of an object, by what kind of object it is."""
    kinds = {kind.__module__.partition(".")[0] + "." + kind.__name__ for kind in type(model).__mro__}
    if isinstance(model, Teacher) and isinstance(model, TextTeacher | ImageTeacher) and callable(model.identity):
        return _side(model, modality)
    if "sentence_transformers.SentenceTransformer" in kinds:
        from labelgen.teachers.adapters.sentences import sentence_tower

        compute = Compute(precision, batch or _TEXT_BATCH, block or _TEXT_BLOCK, device, runtime)
        return sentence_tower(_copy(model), text="none", compute=compute, facts=facts)
    if is_module(model) and not (hasattr(model, "encode_texts") or hasattr(model, "encode_images")):
        from labelgen.teachers.objects.networks import network_teacher

        compute = Compute(precision, batch or _TEXT_BATCH, block or _IMAGE_BLOCK, device, runtime)
        return network_teacher(_copy(model), preprocess, tokenizer, modality, compute, facts)
    if runtime == "openvino":
        raise RuntimeRefusedError(f"{facts['name']} is no torch module", "a torch module or a SentenceTransformer")
    return _encoder(model, modality, facts, batch, block)


def _encoder(model: Any, modality: Modality | None, facts: Mapping[str, Any], batch: int, block: int) -> Any:
    """An object with `encode_texts` or `encode_images`, or a function."""
    by_method = {"text": getattr(model, "encode_texts", None), "image": getattr(model, "encode_images", None)}
    sides = {side: function for side, function in by_method.items() if callable(function)}
    if not sides and callable(model):
        if modality is None:
            raise ConfigError(
                f"{facts['name']} is a function of texts or of images",
                todo="say which: labelgen.as_teacher(function, modality='text', identity='...')",
            )
        sides = {modality: model}
    if modality is not None:
        sides = {side: function for side, function in sides.items() if side == modality}
    if not sides:
        raise ConfigError(
            f"{facts['name']} is not a teacher" + (f" of modality {modality}" if modality else ""),
            found=f"a {type(model).__name__}",
            expected="an object with encode_texts(texts) or encode_images(images), a SentenceTransformer, a torch "
            "module with preprocess= or tokenizer=, or a function with an identity",
        )
    made = list[Any]()
    if "text" in sides:
        made.append(ObjectTexts(sides["text"], facts, block=block or getattr(model, "text_block", _TEXT_BLOCK)))
    if "image" in sides:
        batch = batch or getattr(model, "image_batch", _IMAGE_BATCH)
        block = block or getattr(model, "image_block", _IMAGE_BLOCK)
        prepare = getattr(model, "prepare_image", None)
        made.append(ObjectImages(sides["image"], prepare, facts, batch=batch, block=block))
    return made[0] if len(made) == 1 else CrossModal(*made)


def _side(model: Any, modality: Modality | None) -> Any:
    if modality is not None and modality not in model.modalities:
        raise ConfigError(f"this teacher is not one of modality {modality}", found=", ".join(sorted(model.modalities)))
    return model


def _identity_facts(model: Any, name: str, identity: Any, preprocess: Any) -> dict[str, Any]:
    """The facts of an object's identity: what the caller states, else a fingerprint of all that describes it."""
    if identity:
        return {"identity": identity}
    if isinstance(model, Teacher) and callable(model.identity):
        return {}
    if not is_module(model) and not hasattr(model, "encode_texts") and not hasattr(model, "encode_images"):
        raise ConfigError(f"{name} has no identity", found=f"a {type(model).__name__}", todo=_HOW)
    try:
        return {"object": fingerprint([describe(model), _transform(preprocess)])}
    except MemoryError:
        raise
    except Exception as error:  # objects of others raise anything when they are looked at
        found = f"{error.what}: {error.found}" if isinstance(error, UnclearError) else reason_of(error)
        raise ConfigError(f"{name} has no identity that labelgen can find", found=found, todo=_HOW) from error


def _transform(transform: Any) -> Any:
    """An image transform by its text, where that says what it does, else by its parts."""
    text = repr(transform)
    return text if transform is None or " at 0x" not in text else describe(transform, "preprocess")


def _copy(network: Any) -> Any:
    with foreign("the network cannot be copied", todo="give 'module:factory', which makes it again"):
        return deepcopy(network)
