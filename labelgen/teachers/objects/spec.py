"""The spec of a teacher that is a Python object, as recipes and stores have it."""

from __future__ import annotations

from typing import Any

from labelgen import given
from labelgen.errors import TeacherError
from labelgen.specs import Spec
from labelgen.teachers.base import TeacherInfo, described


@described(
    TeacherInfo(
        summary="a Python object or function of the caller, see labelgen.as_teacher",
        modalities=("text", "image"),
        example="object(identity='my encoder, v1', name='my_module.Encoder')",
        offline="always",
        extra="",
    )
)
def given_object(*, identity: str, name: str, device: str = "cpu") -> Any:
    """The object behind a spec, where the caller of this process gave it.

    Raises:
        TeacherError: it was not given: a store does not hold it.
    """
    spec = str(Spec.of("object", identity=identity, name=name))
    found = given.find(spec)
    if found is None:
        raise TeacherError(
            f"the teacher {name!r} is a Python object, which is not stored",
            found=spec,
            expected="the same object, given again",
            todo="give it with teachers={alias: object} in Python, or with --teacher alias=module:factory",
        )
    return found.make(device)
