"""``python -m adaptrt.bench`` lists the commands of this room, each with what it measures."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

FOLDER = Path(__file__).parent
_RUNS = 'if __name__ == "__main__":'


def commands(folder: Path = FOLDER) -> dict[str, str]:
    """The commands and the first sentence that each says of itself, by name.

    A command is a file of the folder that runs as a program, or a folder with a ``__main__.py``, which its
    ``__init__.py`` describes.
    """
    described = {}
    for path in sorted(folder.iterdir()):
        if (path / "__main__.py").is_file():
            described[path.name] = _first_sentence(path / "__init__.py")
        elif path.suffix == ".py" and path.stem != "__main__" and _RUNS in path.read_text():
            described[path.stem] = _first_sentence(path)
    return described


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return docstring.partition("\n\n")[0].replace("\n", " ").partition(". ")[0].removesuffix(".")


def main() -> None:
    """Print the list."""
    argparse.ArgumentParser(prog="python -m adaptrt.bench", description=__doc__).parse_args()
    listed = commands()
    width = max(map(len, listed))
    for name, sentence in listed.items():
        print(f"python -m adaptrt.bench.{name:{width}}  {sentence}")


if __name__ == "__main__":
    main()
