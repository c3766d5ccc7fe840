"""The ground that transparent pictures are laid over: how it is written, and what is said of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adaptrt.cli.errors import CommandError

if TYPE_CHECKING:
    from adaptrt.runtime.bundle.bundle_file import ImagePreprocessing

_NAMED = {"black": (0, 0, 0), "white": (255, 255, 255)}


@dataclass(frozen=True)
class Background:
    """A colour.

    Attributes:
        colour: red, green and blue, 0..255.
        declared: whether the bundle declares it, rather than somebody on the command line.
    """

    colour: tuple[int, int, int]
    declared: bool = False

    def __str__(self) -> str:
        for name, colour in _NAMED.items():
            if colour == self.colour:
                return name
        red, green, blue = self.colour
        return f"grey {red}" if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


def parse_background(text: str) -> Background:
    """``black``, ``white``, a grey level such as ``128``, or ``#rrggbb``.

    Raises:
        CommandError: It is none of these.
    """
    word = text.strip().lower()
    if word in _NAMED:
        return Background(_NAMED[word])
    if re.fullmatch("[0-9]{1,3}", word) and int(word) <= 255:
        return Background((int(word),) * 3)
    if re.fullmatch("#[0-9a-f]{6}", word):
        red, green, blue = bytes.fromhex(word[1:])
        return Background((red, green, blue))
    raise CommandError(
        f"got background {text!r}, expected black, white, a grey level from 0 to 255 or #rrggbb such as #ff8000; "
        "write it like one of these"
    )


def declared_background(recipe: ImagePreprocessing) -> Background:
    """What the preprocessing of a bundle declares."""
    red, green, blue = recipe.background if len(recipe.background) == 3 else recipe.background * 3
    return Background((red, green, blue), declared=True)


@dataclass(frozen=True)
class LaidOver:
    """Pictures that were laid over a ground, because some of their pixels are not opaque.

    Attributes:
        pictures: How many.
        read: How many were read, opaque ones included.
        background: The ground.
    """

    pictures: int
    read: int
    background: Background

    def __str__(self) -> str:
        declared_by = "as the bundle declares" if self.background.declared else "as --background says"
        pictures = "picture" if self.read == 1 else "pictures"
        return f"{self.pictures} of {self.read} {pictures} not opaque, laid over {self.background} {declared_by}"

    def plain(self) -> dict[str, Any]:
        """The same for JSON."""
        return {"pictures": self.pictures, "background": list(self.background.colour)}
