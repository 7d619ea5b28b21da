"""Text preprocessing, by name: a recorded part of a text teacher's identity.

========  =============================================================================================================
`none`    the caption as the corpus has it
`cusa`    what the released code of CUSA (AAAI 2024) does before its text teacher: lower case; each of
          ``, . ' ! ? " ( ) * # : ; ~ - /`` becomes a space; ``<person>`` becomes ``person``; two or more white-space
          characters become one space; spaces at both ends go; the first 64 words stay
========  =============================================================================================================

A step may leave nothing of a text (`...`). The released code refuses such captions; here the empty text is encoded, so
that every caption keeps its row, and all such captions get the same one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from labelgen.registry import unknown

TextStep = Callable[[str], str]

_CUSA_SPACES = str.maketrans(dict.fromkeys(",.'!?\"()*#:;~-/", " "))
_CUSA_MAX_WORDS = 64


#: Texts whose token ids identify the tokenizer: case, accents, scripts, punctuation, white space, truncation.
PROBES = (
    "A man in a BLUE-striped shirt, cleaning windows; 3 cafés (on a ladder)!",
    "naïve Ünïcode 東京 🙂 <unk> [MASK] don't",
    "  two  spaces\tand a\nnew line...",
    "long " * 5000,
    "",
)


def _cusa(text: str) -> str:
    spaced = text.lower().translate(_CUSA_SPACES).replace("<person>", "person")
    words = re.sub(r"\s{2,}", " ", spaced).rstrip("\n").strip(" ").split(" ")
    return " ".join(words[:_CUSA_MAX_WORDS])


TEXT_STEPS: Mapping[str, TextStep] = MappingProxyType({"none": str, "cusa": _cusa})


def text_step(name: str) -> TextStep:
    """The step called `name`.

    Raises:
        UnknownNameError: no such step; offers near names.
    """
    if name not in TEXT_STEPS:
        raise unknown("text step", name, TEXT_STEPS)
    return TEXT_STEPS[name]
