"""What Triton's Python backend calls, over a stand-in for its module: groups by budget, answers, errors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adaptrt import AdaptrtError
from adaptrt.runtime import load
from adaptrt.runtime.control.budget_text import parse_budget
from adaptrt.runtime.model import AdaptiveModel
from adaptrt.runtime.serving.triton_model import TritonPythonModel
from tests.runtime.staged_reference import eighths
from tests.serving.server_process import FIXTURES


class Error(Exception):
    INVALID_ARG, INTERNAL = "invalid", "internal"

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.text, self.code = text, code


class Request:
    def __init__(self, arrays: dict[str, Any], wanted: list[str] | None = None, **parameters: object) -> None:
        self._arrays, self._wanted, self._parameters = arrays, wanted or [], parameters

    def inputs(self) -> list[Any]:
        return [
            SimpleNamespace(name=lambda name=name: name, as_numpy=lambda array=array: array)
            for name, array in self._arrays.items()
        ]

    def parameters(self) -> str:
        return json.dumps(self._parameters) if self._parameters else ""

    def requested_output_names(self) -> list[str]:
        return self._wanted


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Triton's module is there; what is written to its log."""
    lines: list[str] = []
    stand_in = SimpleNamespace(
        Tensor=lambda name, array: (name, array),
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(
            outputs=dict(output_tensors), error=error
        ),
        TritonError=Error,
        Logger=SimpleNamespace(log_error=lines.append),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    return lines


def started(tmp_path: Path, name: str = "tiny", most: int = 8, **parameters: str) -> TritonPythonModel:
    shutil.copytree(FIXTURES / name, tmp_path / "1" / "bundle")
    specs = load(FIXTURES / name, threads=1).bundle.outputs
    config = {
        "max_batch_size": most,
        "output": [*({"name": spec.name} for spec in specs), {"name": "exit"}],
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
    }
    model = TritonPythonModel()
    model.initialize({"model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"})
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Samples of each call of a model."""
    sizes: list[int] = []
    run = AdaptiveModel.run

    def counted(self: AdaptiveModel, inputs: Any, **named: Any) -> Any:
        sizes.append(len(inputs["x"]))
        return run(self, inputs, **named)

    monkeypatch.setattr(AdaptiveModel, "run", counted)
    return sizes


def test_equal_budgets_share_a_call(tmp_path: Path, logged: list[str], calls: list[int]) -> None:
    model = started(tmp_path, threads="1", budget="45%")
    budgets = ("full", "20%", "full", "fast", None, "20%", "45%")
    samples = [eighths(seed, 2, 4) for seed in range(len(budgets))]
    answers = model.execute(
        [
            Request({"x": x}, **({} if budget is None else {"budget": budget}))
            for x, budget in zip(samples, budgets, strict=True)
        ]
    )
    assert calls == [4, 4, 4] and not logged
    alone = load(FIXTURES / "tiny", threads=1)
    for x, budget, answer in zip(samples, budgets, answers, strict=True):
        if budget == "fast":
            assert answer.error.code == Error.INVALID_ARG and answer.error.text.startswith("got budget 'fast'")
            continue
        result = alone.run({"x": x}, budget=parse_budget(budget or "45%"))
        assert answer.error is None
        assert answer.outputs["logits"].tobytes() == result.outputs["logits"].tobytes()
        assert answer.outputs["macs_fraction"].tobytes() == result.macs_fraction.tobytes()
    model.finalize()


def test_a_call_has_no_more_samples_than_triton_batches(tmp_path: Path, logged: list[str], calls: list[int]) -> None:
    model = started(tmp_path, most=3, threads="1")
    answers = model.execute([Request({"x": eighths(seed, 2, 4)}) for seed in range(3)])
    assert calls == [2, 2, 2] and all(answer.error is None for answer in answers) and not logged


def test_outputs_that_were_not_asked_for_are_left_out(tmp_path: Path, logged: list[str]) -> None:
    model = started(tmp_path, threads="1")
    (answer,) = model.execute([Request({"x": eighths(1, 2, 4)}, wanted=["macs_fraction"])])
    assert list(answer.outputs) == ["macs_fraction"] and not logged


def test_exits_and_deadlines(tmp_path: Path, logged: list[str]) -> None:
    model = started(tmp_path, "exits", most=0, threads="1")
    arrays = {"x": eighths(1, 4, 6), "hint": eighths(2, 4, 2), "scale": np.ones(1, np.float32)}
    first, second = model.execute([Request(arrays, budget="30%"), Request(arrays, deadline_ms="60000")])
    alone = load(FIXTURES / "exits", threads=1)
    cheap, full = alone.run(arrays, budget=parse_budget("30%")), alone.run(arrays)
    assert np.array_equal(first.outputs["exit"], cheap.exit) and np.array_equal(second.outputs["exit"], full.exit)
    assert first.outputs["logits"].tobytes() == cheap.outputs["logits"].tobytes() and not logged


def test_what_fails_inside_is_logged_and_not_told(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = started(tmp_path, threads="1")

    def fail(*_arguments: object, **_named: object) -> None:
        raise RuntimeError("the address of the inside")

    monkeypatch.setattr(AdaptiveModel, "run", fail)
    right, wrong = model.execute([Request({"x": eighths(1, 2, 4)}), Request({"y": eighths(1, 2, 4)})])
    assert right.error.code == Error.INTERNAL and "inside" not in right.error.text
    assert "the address of the inside" in logged[0]
    assert wrong.error.code == Error.INVALID_ARG and "\n" not in wrong.error.text


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"budgets": "full"}, "got parameter 'budgets' in config.pbtxt, expected budget, precision, threads"),
        ({"threads": "two"}, "got threads 'two' in config.pbtxt, expected a whole number"),
        ({"budget": "fast"}, "got budget 'fast'"),
        ({"precision": "fp1"}, "got precision='fp1'"),
    ],
)
def test_wrong_settings_are_told_in_a_line(
    tmp_path: Path, logged: list[str], parameters: dict[str, str], told: str
) -> None:
    with pytest.raises(AdaptrtError) as caught:
        started(tmp_path, **parameters)
    assert told in str(caught.value) and "\n" not in str(caught.value) and not logged
