"""The pages of the documentation and their fenced blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")))
LANGUAGES = {"python", "bash", "sh", "json", "c", "cpp", "cmake", "js"}

_FENCE = re.compile(r"^(`{3,})(.*)$")
_MARKER = "not-run:"


class BlockError(Exception):
    """A block that is written wrongly."""


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: Path from the repository's folder.
        line: Of its first line of text, from 1.
        language: One of ``LANGUAGES``.
        not_run: Why it cannot run here, the words behind ``not-run:``; None: it runs.
        text: What is in it.
    """

    page: str
    line: int
    language: str
    not_run: str | None
    text: str

    @property
    def place(self) -> str:
        """Where it stands, as errors say it."""
        return f"{self.page}:{self.line}"


def page_text(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks_of(page: str, text: str) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        BlockError: A block has no language, another one, an empty marker, or no end.
    """
    blocks: list[Block] = []
    fence, info, first, lines = "", "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        match = _FENCE.match(line)
        if not fence and match:
            fence, info, first, lines = match[1], match[2].strip(), number + 1, []
        elif fence and match and match[1] == fence and not match[2].strip():
            blocks.append(_block(page, first, info, "\n".join(lines) + "\n"))
            fence = ""
        elif fence:
            lines.append(line)
    if fence:
        raise BlockError(f"{page}:{first}: got a block without an end, expected {fence} on a line of its own")
    return blocks


def _block(page: str, line: int, info: str, text: str) -> Block:
    language, _, rest = info.partition(" ")
    if language not in LANGUAGES:
        raise BlockError(f"{page}:{line}: got language {language!r}, expected one of {', '.join(sorted(LANGUAGES))}")
    rest = rest.strip()
    reason = rest.removeprefix(_MARKER).strip() if rest.startswith(_MARKER) else None
    if rest and not reason:
        raise BlockError(f"{page}:{line}: got {rest!r} behind the language, expected 'not-run: REASON' or nothing")
    return Block(page, line, language, reason, text)


def without_blocks(text: str) -> str:
    """A page's prose, every line where it was."""
    kept, fence = [], ""
    for line in text.splitlines():
        match = _FENCE.match(line)
        inside = bool(fence)
        if match and not fence:
            fence = match[1]
        elif match and match[1] == fence:
            fence = ""
        kept.append("" if inside or match else line)
    return "\n".join(kept)
