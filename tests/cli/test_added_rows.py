"""A row in a table is all that the command line needs: names, choices, help, and what the verbs do with them."""

from __future__ import annotations

import json
import re

import pytest

from adaptrt.cli.budgets import parse_budget
from adaptrt.cli.errors import CommandError
from adaptrt.runtime import Budget
from adaptrt.runtime.errors import BudgetError
from tests.added_rows import LOADED, PERMILLE, SECONDS, TARGET, added, backend


def help_of(cli, verb):
    return re.sub(r"\s+", " ", cli(verb, "--help").stdout)


def test_a_backend_runs(cli, refused, bundle, pixels):
    assert "dummy" not in help_of(cli, "run")
    with added(backend(target="")):
        for verb in ("run", "verify", "bench", "profile"):
            text = help_of(cli, verb)
            assert "rtx, dummy, or auto: the fastest that is there. [default: onnxruntime]" in text, text
            assert "--precision fp32|int8|bf16|fp16|fp8|fp4" in text
        ran = json.loads(cli("run", bundle, pixels, "--backend", "dummy", "--json").stdout)
        assert ran["backend"] == {"name": "dummy", "reason": "it was asked for", "precision": "fp32"}
        assert [("dummy", bundle)] == LOADED and len(ran["results"]) == 5
        assert "note: dummy runs it: it is the dummy" in cli("run", bundle, pixels, "--backend", "auto").stderr
        assert "'dummy', 'auto'" in refused("run", bundle, pixels, "--backend", "tflite")
        assert cli("verify", bundle, "--backend", "dummy").exit_code == 0


def test_a_missing_engine_names_the_extra_of_its_row(refused, bundle, pixels, monkeypatch):
    def load_stages(*_):
        raise ModuleNotFoundError("No module named 'dummy_engine'", name="dummy_engine")

    monkeypatch.setattr("tests.added_rows.load_stages", load_stages)
    with added(backend(target="")):
        line = refused("run", bundle, pixels, "--backend", "dummy")
    assert "dummy_engine is not installed" in line and "pip install 'adaptrt[dummy]'" in line


def test_a_target_is_built_listed_and_run(cli, refused, bundle, pixels):
    with added(backend(), TARGET):
        text = help_of(cli, "build")
        assert "openvino, tensorrt, tensorrt-rtx, onnxruntime, dummy, triton or triton-onnxruntime." in text
        assert "dummy: graphs for the dummy." in text
        assert "adaptrt build build/digits --target dummy --rebuild" in text
        assert "onnxruntime, dummy, triton, triton-onnxruntime; name one" in refused(
            "build", bundle, "--target", "dumy"
        )
        assert "no engines/dummy-fp32" in refused("run", bundle, pixels, "--backend", "dummy")
        assert "got precision 'fp16' for dummy, expected fp32" in refused(
            "build", bundle, "--target", "dummy", "--precision", "fp16"
        )
        assert "is not one of 'fp32', 'fp16'" in refused("build", bundle, "--target", "dummy", "--precision", "fp4")
        assert "got an architecture for dummy" in refused("build", bundle, "--target", "dummy", "--arch", 87)
        built = cli("build", bundle, "--target", "dummy")
        assert built.exit_code == 0 and (bundle / "engines" / "dummy-fp32" / "stage0.onnx").is_file()
        assert "was there already" in cli("build", bundle, "--target", "dummy").stdout
        assert "dummy-fp32" in cli("inspect", bundle).stdout
        ran = cli("run", bundle, pixels, "--backend", "dummy", "--json")
        assert json.loads(ran.stdout)["backend"]["name"] == "dummy"


def test_a_kind_of_budget_is_read(cli, refused, bundle, pixels):
    with added(SECONDS, PERMILLE):
        assert parse_budget("0.008s") == Budget("seconds", 0.008, percentile=0.9)
        assert parse_budget("2min") == Budget("seconds", 120, percentile=0.9)
        assert parse_budget("8ms") == Budget.latency(8)  # the longer suffix
        assert parse_budget("512pm", hard=True) == Budget("permille", 512, hard=True)
        with pytest.raises(CommandError, match="--hard with budget 1s, expected a share, MACs or thousandths; leave"):
            parse_budget("1s", hard=True)
        text = help_of(cli, "run")
        assert "--budget SHARE|MACS|MS|MJ|W|full|S|PM" in text
        assert "full, seconds such as 0.008s, or thousandths such as 500pm; default: full." in text
        assert "seconds such as 0.008s" in refused("run", bundle, pixels, "--budget", "soon")
        shares = [
            json.loads(cli("run", bundle, pixels, "--budget", budget, "--json").stdout)["macs_fraction"]
            for budget in ("512pm", "50%")
        ]
        assert shares[0] == shares[1]
    with pytest.raises(BudgetError, match="expected a share of the dense work such as 0.5 or 50%, MACs such as 90M"):
        parse_budget("512pm")


def test_calls_under_an_added_kind_are_watched(cli, bundle, pixels, monkeypatch, tmp_path):
    monkeypatch.setenv("ADAPTRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adaptrt.runtime.device.profiling.SECONDS", 0.1)
    monkeypatch.setattr("adaptrt.runtime.device.profile._PAUSE_S", 0.01)
    with added(SECONDS):
        options = ("--budget", "5s", "--watch", "--seconds", "0.2", "--json")
        watched = json.loads(cli("run", bundle, pixels, *options).stdout)
        assert watched["met"] == 1.0 and watched["budget"] == "5 s for 0.9 of the calls"
