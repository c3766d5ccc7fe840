"""Slow tests say why they are slow; `make test-fast` leaves out them and no others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests import conftest

MARKS = pytest.mark.slow


def collected(*marks: pytest.MarkDecorator) -> Any:
    """What the check reads of a test."""

    def iter_markers(name: str) -> Iterator[pytest.Mark]:
        return (mark.mark for mark in marks if mark.name == name)

    return SimpleNamespace(nodeid="tests/test_x.py::test_y", iter_markers=iter_markers)


def test_a_reason_is_enough() -> None:
    conftest.require_reasons([collected(), collected(MARKS("trains")), collected(MARKS("trains"), MARKS("traces"))])


@pytest.mark.parametrize("mark", [MARKS, MARKS(), MARKS(""), MARKS(" "), MARKS(3), MARKS("a", "b"), MARKS(reason="a")])
def test_a_slow_test_without_a_reason_is_an_error(mark: pytest.MarkDecorator) -> None:
    with pytest.raises(pytest.UsageError, match=r"tests/test_x.py::test_y: got the marker slow.*, expected its reason"):
        conftest.require_reasons([collected(MARKS("trains")), collected(mark)])


def test_pytest_stops_at_a_slow_test_without_a_reason(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is where pytest collects."""
    module = request.node.getparent(pytest.Module)

    def collect(mark: pytest.MarkDecorator) -> object:
        def test_y() -> None: ...

        monkeypatch.setattr(module.obj, "test_y", mark(test_y), raising=False)
        return request.config.hook.pytest_pycollect_makeitem(collector=module, name="test_y", obj=module.obj.test_y)

    assert collect(MARKS("trains"))
    with pytest.raises(pytest.UsageError, match="test_y: got the marker slow.*expected its reason"):
        collect(MARKS())


def test_a_folder_s_tests_are_marked_before_they_are_chosen() -> None:
    marked: list[pytest.MarkDecorator] = []
    item = SimpleNamespace(path=conftest.TESTS / "bench" / "timing" / "test_x.py", add_marker=marked.append)
    hook: Any = conftest.pytest_collection_modifyitems
    next(hook(SimpleNamespace(), [item]))
    assert [mark.args for mark in marked] == [(conftest.SLOW_FOLDERS["bench"],)]


def test_a_slow_folder_is_skipped_where_no_slow_test_is_wanted() -> None:
    def ignored(folder: str, expression: str) -> bool:
        config: Any = SimpleNamespace(option=SimpleNamespace(markexpr=expression))
        return bool(conftest.pytest_ignore_collect(conftest.TESTS / folder, config))

    assert ignored("bench", "not slow") and not ignored("runtime", "not slow")
    assert not ignored("bench", "") and not ignored("bench", "slow")


def test_tables_name_what_is_there() -> None:
    assert all((conftest.TESTS / folder).is_dir() for folder in conftest.SLOW_FOLDERS)
    assert all((conftest.TESTS / name).exists() for name in conftest.LONGEST_FIRST)


def test_the_longest_come_first() -> None:
    names = ("export/parity/test_families.py", "export/graph/test_graph.py", "cli/test_run.py", "test_tables.py")
    ranks = [conftest.rank(conftest.TESTS / name) for name in names]
    assert ranks == sorted(set(ranks)) and ranks[-1] == len(conftest.LONGEST_FIRST)
