"""Test suites for extensions, plain oracles, and generated stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labelgen.lazy import lazy_names

if TYPE_CHECKING:
    from labelgen.testing import loss_oracles
    from labelgen.testing.engines import EngineSuite
    from labelgen.testing.schemes import Everything
    from labelgen.testing.stores import make_store
    from labelgen.testing.teachers import ImageTeacherSuite, KeyedTeacherSuite, TextTeacherSuite, TrainedTeacherSuite

__all__ = [
    "EngineSuite",
    "Everything",
    "ImageTeacherSuite",
    "KeyedTeacherSuite",
    "TextTeacherSuite",
    "TrainedTeacherSuite",
    "loss_oracles",
    "make_store",
]

_PLACES = {
    "EngineSuite": "labelgen.testing.engines:EngineSuite",
    "Everything": "labelgen.testing.schemes:Everything",
    "ImageTeacherSuite": "labelgen.testing.teachers:ImageTeacherSuite",
    "KeyedTeacherSuite": "labelgen.testing.teachers:KeyedTeacherSuite",
    "TextTeacherSuite": "labelgen.testing.teachers:TextTeacherSuite",
    "TrainedTeacherSuite": "labelgen.testing.teachers:TrainedTeacherSuite",
    "make_store": "labelgen.testing.stores:make_store",
}

__getattr__, __dir__ = lazy_names(__name__, _PLACES, ("loss_oracles",))
