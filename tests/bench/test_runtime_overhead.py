from __future__ import annotations

import json

import pytest

testing = pytest.importorskip("click.testing", reason="the bench commands need click and rich")
pytest.importorskip("rich", reason="the bench commands need click and rich")

from adaptrt.bench.runtime_overhead import main  # noqa: E402


def test_measures_and_writes(tmp_path):
    file = tmp_path / "overhead.json"
    arguments = ["--calls", "5", "--interpreters", "1", "--batch", "2", "--json", str(file)]
    done = testing.CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(file.read_text())
    assert [row["what"] for row in result["rows"]] == [
        "call, budget of the model",
        "call, budget of its own",
        "import",
    ]
    for row in result["rows"]:
        assert row["plain"]["low"] <= row["plain"]["median"] <= row["plain"]["high"]
        assert row["plain"]["median"] > 0
    assert (result["bundle"], result["batch"], result["calls"]) == ("tiny", 2, 5)


def test_a_bundle_that_is_none(tmp_path):
    from adaptrt.runtime import BundleError

    done = testing.CliRunner().invoke(main, [str(tmp_path)])
    assert isinstance(done.exception, BundleError)


def test_several_stages_are_refused(staged):
    from adaptrt.bench.errors import BenchError

    done = testing.CliRunner().invoke(main, [str(staged), "--calls", "5", "--interpreters", "1"])
    assert isinstance(done.exception, BenchError) and "2 stages, expected 1" in str(done.exception)
