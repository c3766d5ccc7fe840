"""What the pages point to is there: links, anchors, pictures, files, modules, verbs, make targets."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptrt.cli.group import VERBS
from tests.docs.code_blocks import PAGES, ROOT, page_text, without_blocks

LONGEST_README = 900
COMING: set[str] = set()
"""Pages that are linked already; take one out when it is there."""

TO_CHECK: dict[str, int] = {}
"""How many sections stand behind ``<!-- check: NAME -->``: what they name may be in code that is being built."""

ROOMS = ("ops", "models", "export", "plugins_trt", "runtime", "cli", "bench", "docs", "tests")
_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_CHECK = re.compile(r"<!-- check: ([\w ,]+) -->")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the code host makes them."""
    headings = re.findall(r"^#{1,6} (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def wrong_links(page: str, text: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    wrong = []
    for picture, link in _LINK.findall(without_blocks(text)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        inside = target.is_relative_to(ROOT)
        if inside and target.relative_to(ROOT).as_posix() in COMING:
            continue
        is_there = not path or (inside and target.exists() and (not picture or target.suffix == ".png"))
        if is_there and anchor:
            is_there = anchor in anchors(text if not path else target.read_text())
        if not is_there:
            wrong.append(link)
    return wrong


def checked_text(text: str) -> str:
    """A page without its blocks and without the sections whose names are not looked up."""
    kept, skipped = [], False
    for section in re.split(r"^(?=#{1,6} |<!-- check: )", without_blocks(text), flags=re.MULTILINE):
        begins_with_mark = _CHECK.match(section)
        if not skipped and not begins_with_mark:
            kept.append(section)
        # A mark stands before a heading, or within a section before what it is about.
        skipped = bool(begins_with_mark) and not _CHECK.sub("", section).strip()
    return "".join(kept)


def unknown_names(text: str) -> list[str]:
    """What a page names in code that is not there."""
    return [name for name in _CODE.findall(checked_text(text)) if not all(_exists(part) for part in _named(name))]


def _named(code: str) -> Iterator[tuple[str, str]]:
    """What a piece of code names: its kind and the name."""
    if re.fullmatch(rf"(?:{'|'.join(ROOMS)})/[\w/.-]*", code) and "NAME" not in code:
        yield "path", code
    for module in re.findall(r"(?<![\w./])adaptrt(?:\.\w+)+", code):
        yield "module", module
    words = code.split()
    if words[0] == "adaptrt" and len(words) > 1 and words[1].islower():
        yield "verb", words[1]
    if words[0] == "make" and len(words) > 1:
        yield "target", words[1]


def misplaced_names(text: str) -> list[str]:
    """What a page says is in a Python file and is not defined there: `NAME` in `path.py`, `NAME` and `NAME` in it."""
    wrong = []
    for names, path in re.findall(r"((?:`[\w.]+`(?:, | and )?)+) in `([\w/]+\.py)`", checked_text(text)):
        defined = _defined_in(ROOT / path) if (ROOT / path).is_file() else set()
        wrong += [f"{name} in {path}" for name in re.findall(r"`([\w.]+)`", names) if name not in defined]
    return wrong


def _defined_in(path: Path) -> set[str]:
    """Functions, classes and variables of a module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _exists(named: tuple[str, str]) -> bool:
    kind, name = named
    if kind == "path":
        return (ROOT / name).exists()
    if kind == "verb":
        return name in VERBS
    if kind == "target":
        return re.search(rf"^{re.escape(name)}:", (ROOT / "Makefile").read_text(), re.MULTILINE) is not None
    return name == "adaptrt.bench.NAME" or _is_module(name) or _is_attribute(name)


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _is_attribute(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    return _is_module(module) and hasattr(importlib.import_module(module), attribute)


def test_the_readme_is_short_and_begins_with_its_two_commands() -> None:
    text = page_text("README.md")
    assert len(text.split()) <= LONGEST_README
    first = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert first is not None
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make export", "make test"]
    assert len(re.findall(r"!\[", text)) == 2


def test_the_readme_links_every_page() -> None:
    linked = {link for _, link in _LINK.findall(page_text("README.md"))}
    assert set(PAGES) - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES)
def test_links_anchors_and_pictures_are_there(page: str) -> None:
    assert wrong_links(page, page_text(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_names_are_there(page: str) -> None:
    assert unknown_names(page_text(page)) == []


@pytest.mark.parametrize("page", PAGES)
def test_names_are_in_the_files_that_pages_name(page: str) -> None:
    assert misplaced_names(page_text(page)) == []


def test_a_name_in_another_file_is_noticed() -> None:
    text = "`run` in `cli/run.py`, `VERBS` and `run` in `cli/group.py`, `A` in `cli/no.py`"
    assert misplaced_names(text) == ["run in cli/group.py", "A in cli/no.py"]
    assert "`_show` in `cli/run.py`" in page_text("docs/adding.md")


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_finished(page: str) -> None:
    text = page_text(page)
    assert "TODO" not in text and "@@" not in text
    assert len(text.splitlines()) <= 400


def test_every_picture_is_shown() -> None:
    shown = {Path(link).name for page in PAGES for picture, link in _LINK.findall(page_text(page)) if picture}
    assert shown == {path.name for path in (ROOT / "docs").glob("*.png")}


def test_what_is_coming_is_not_there_yet() -> None:
    there = [page for page in COMING if (ROOT / page).exists()]
    assert not there, "take these out of COMING"


def test_sections_to_be_checked_are_listed() -> None:
    marked = [name for page in PAGES for name in _CHECK.findall(page_text(page))]
    assert Counter(marked) == TO_CHECK


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[a](budgets.md#no-such-heading)", ["budgets.md#no-such-heading"]),
        ("[a](no_page.md) and [b](budgets.md#deadlines)", ["no_page.md"]),
        ("![a](no_picture.png) ![b](frontier.png)", ["no_picture.png"]),
        ("![a](budgets.md)", ["budgets.md"]),
        ("[a](#here)\n\n## Here", []),
        ("[a](#there)\n\n## Here", ["#there"]),
        ("[a](../../outside.md)", ["../../outside.md"]),
    ],
)
def test_a_wrong_link_is_noticed(text: str, wrong: list[str]) -> None:
    assert wrong_links("docs/page.md", text) == wrong


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`adaptrt.runtime.bundle.schema` and `adaptrt.runtime.no_file`", ["adaptrt.runtime.no_file"]),
        ("`adaptrt.runtime.Budget` and `adaptrt.runtime.Budgets`", ["adaptrt.runtime.Budgets"]),
        ("`runtime/control/` and `runtime/kontrol/`", ["runtime/kontrol/"]),
        ("`adaptrt exprot digits` and `adaptrt export digits`", ["adaptrt exprot digits"]),
        ("`make export MODEL=fashion` and `make exprot`", ["make exprot"]),
        ("## A\n`cli/no.py`\n<!-- check: b -->\n## B\n`cli/no.py`\n## C\n`cli/none.py`", ["cli/no.py", "cli/none.py"]),
        ("## A\n<!-- check: b -->\n`cli/no.py`\n## C\n`cli/none.py`", ["cli/none.py"]),
    ],
)
def test_an_unknown_name_is_noticed(text: str, unknown: list[str]) -> None:
    assert unknown_names(text) == unknown


def test_each_way_to_add_something_is_short() -> None:
    sections = re.split(r"^## ", page_text("docs/adding.md"), flags=re.MULTILINE)[1:]
    lengths = {
        section.partition("\n")[0]: len([line for line in section.splitlines()[1:] if line and not _CHECK.match(line)])
        for section in sections
    }
    assert len(lengths) >= 11
    assert {name for name, lines in lengths.items() if lines > 8} == set()
