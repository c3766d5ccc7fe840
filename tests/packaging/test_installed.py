"""What a distribution does in an environment that has the extras ``cpu`` and ``cli`` and nothing else.

Bundles come from an export in this environment, which has torch.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import adaptrt
from adaptrt.cli.group import VERBS
from tests.packaging.conftest import ROOT, Installed

EXPORTED_BY_MAKE = ROOT / "build" / "digits"
EXITS = ROOT / "tests" / "runtime" / "fixtures" / "exits"

WITHOUT = {"runtime": set(), "ops": set(), "plugins_trt": {"triton"}, "cli": {"torch", "matplotlib"}}
"""Packages that modules of a room may miss here."""
MAY_BE_MISSING = {"torch", "matplotlib", "sympy"}
"""The same of the other rooms."""


def succeed(installed: Installed, *arguments: object) -> str:
    """What ``adaptrt`` prints; progress apart, it says nothing on standard error."""
    done = installed.run("adaptrt", *arguments)
    said = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]
    assert (done.returncode, said) == (0, []), done.stdout + done.stderr
    return done.stdout


def refuse(installed: Installed, *arguments: object) -> str:
    """The one line in which ``adaptrt`` ends."""
    done = installed.run("adaptrt", *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if not line.endswith(" ..."))
    assert line.startswith("error: ")
    return line


def test_the_environment_has_nothing_else(installed: Installed) -> None:
    code = "import importlib.metadata as m; print(*{d.name.lower() for d in m.distributions()})"
    found = set(installed.python(code).split())
    assert {"adaptrt", "numpy", "onnxruntime", "onnx", "click", "rich", "pillow"} <= found
    left_out = {"torch", "matplotlib", "scikit-learn", "scipy", "safetensors", "onnxscript", "triton", "openvino"}
    assert not found & {*left_out, "pip", "setuptools", "pytest", "prometheus-client"}
    place = installed.python("import adaptrt; print(adaptrt.__version__, adaptrt.__file__)").split()
    assert place == [adaptrt.__version__, str(installed.packages / "adaptrt" / "__init__.py")]


def test_every_module_that_needs_no_extra_is_imported(installed: Installed) -> None:
    code = """
import importlib, json, pkgutil
import adaptrt
names, missing = [], {}
for module in pkgutil.walk_packages(adaptrt.__path__, "adaptrt.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    names.append(module.name)
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        missing[module.name] = error.name
print(json.dumps([names, missing]))
"""
    names, missing = json.loads(installed.python(code))
    assert len(names) > 150 and {f"adaptrt.cli.{verb}" for verb in VERBS} <= set(names)
    for name, package in missing.items():
        assert package in WITHOUT.get(name.split(".")[1], MAY_BE_MISSING), f"{name} misses {package}"
    whole = {f"adaptrt.cli.{verb}" for verb in VERBS} | {"adaptrt.bench.runtime_overhead", "adaptrt.bench.deadlines"}
    assert not whole & set(missing)


def test_the_runtime_is_imported_and_runs_without_the_rest(installed: Installed, exported: Path) -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "click", "rich", "PIL", "platformdirs")))
import numpy as np
from adaptrt.runtime import Budget, load
model = load({str(exported)!r}, threads=1)
result = model.run({{"pixels": np.zeros((2, 1, 8, 8), np.float32)}}, budget=Budget.fraction(0.8))
print(result.outputs["logits"].shape)
"""
    assert installed.python(code) == "(2, 10)\n"


def test_the_bundle_with_exits_runs(installed: Installed, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {"x": (4, 6), "hint": (4, 2), "scale": (1,)}
    np.savez(tmp_path / "x.npz", **{name: generator.random(shape, np.float32) for name, shape in arrays.items()})
    assert "exits" in succeed(installed, "inspect", EXITS)
    content = json.loads(succeed(installed, "run", EXITS, tmp_path / "x.npz", "--budget", "50%", "--json"))
    assert content["samples"] == 4 and content["exits"]


def test_the_version(installed: Installed) -> None:
    assert succeed(installed, "--version") == f"adaptrt {adaptrt.__version__}\n"


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help(installed: Installed, verb: str | None) -> None:
    said = succeed(installed, *filter(None, [verb]), "--help")
    assert said.startswith("Usage: adaptrt")
    assert "Examples:" in said if verb else all(name in said for name in VERBS)


def test_inspect(installed: Installed, exported: Path) -> None:
    assert "pixels" in succeed(installed, "inspect", exported)
    content = json.loads(succeed(installed, "inspect", exported, "--json"))
    assert [spec["name"] for spec in content["inputs"]] == ["pixels"] and len(content["curve"]) == 5


@pytest.mark.parametrize(("ending", "samples"), [("png", 1), ("npy", 5), ("npz", 5)])
def test_run(installed: Installed, exported: Path, inputs: dict[str, Path], ending: str, samples: int) -> None:
    arguments = ("run", exported, inputs[ending], "--budget", "80%")
    assert f"over {samples} sample" in succeed(installed, *arguments)
    content = json.loads(succeed(installed, *arguments, "--json"))
    assert content["samples"] == len(content["results"]) == samples


def test_watch(installed: Installed, exported: Path, inputs: dict[str, Path]) -> None:
    arguments = ("--watch", "--seconds", 1, "--batch", 1, "--budget", "8ms", "--json")
    done = installed.run("adaptrt", "run", exported, inputs["npy"], *arguments)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert json.loads(done.stdout)["calls"] > 10


def test_profile(installed: Installed, exported: Path) -> None:
    assert "Batch 1" in succeed(installed, "profile", exported, "--seconds", 0.3)


def test_verify(installed: Installed, exported: Path) -> None:
    assert "computes what torch computed" in succeed(installed, "verify", exported)


def test_bench(installed: Installed, bundle: Path) -> None:
    said = succeed(installed, "bench", bundle, "--no-plot", "--rounds", 3)
    assert "dense" in said and json.loads((bundle / "bench.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        ("calibrate BUNDLE", "export"),
        ("export digits --output FOLDER", "export"),
        ("train digits --output FOLDER", "export"),
        ("build BUNDLE --target tensorrt-rtx --arch 89", "export|tensorrt-rtx"),
        ("bench BUNDLE", "export"),
        ("profile BUNDLE --plot FOLDER/profile.png", "export"),
        ("run BUNDLE PNG --explain FOLDER/why.png", "export"),
        ("run BUNDLE PNG --watch --seconds 1 --metrics-port 0", "telemetry"),
    ],
)
def test_what_needs_another_extra_names_it(
    installed: Installed, bundle: Path, inputs: dict[str, Path], tmp_path: Path, arguments: str, extras: str
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    before = sorted(bundle.rglob("*"))
    words = arguments.replace("FOLDER", str(folder)).replace("BUNDLE", str(bundle)).replace("PNG", str(inputs["png"]))
    assert re.search(rf"adaptrt\[({extras})\]", refuse(installed, *words.split()))
    assert sorted(bundle.rglob("*")) == before and not list(folder.iterdir())


def test_what_the_runtime_costs_is_measured_without_the_checkout(installed: Installed, tmp_path: Path) -> None:
    options = ("--calls", 20, "--interpreters", 1, "--json", tmp_path / "overhead.json")
    done = installed.run("python", "-m", "adaptrt.bench.runtime_overhead", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "overhead.json").read_text())["bundle"] == "tiny"


def page_examples(page: str, heading: str, bundle: Path) -> list[str]:
    """The Python blocks under a heading of a page, with another bundle's path."""
    text = (ROOT / page).read_text()
    (section,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## )", text, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return [block.replace("build/digits", str(bundle)) for block in blocks]


@pytest.mark.parametrize("made_by", ["the tests", "make export"])
def test_the_examples_of_the_readme(installed: Installed, exported: Path, tmp_path: Path, made_by: str) -> None:
    if made_by == "make export" and not (EXPORTED_BY_MAKE / "bundle.json").is_file():
        pytest.skip("build/digits is not there: make export writes it")
    bundle = Path(shutil.copytree(exported if made_by == "the tests" else EXPORTED_BY_MAKE, tmp_path / "bundle"))
    embedded, plain = page_examples("README.md", "Use it", bundle)
    (held,) = page_examples("docs/budgets.md", "Latency", bundle)
    assert str(bundle) in embedded and str(bundle / "model.onnx") in plain
    first = installed.python(embedded + plain).splitlines()
    assert len(first) == 1 and re.fullmatch(r"\[\d\] \[[\d.]+\] [\d.]+", first[0])
    last = installed.python(embedded + held).splitlines()[-1]
    assert re.fullmatch(r"[\d.]+ .+ (True|False)", last)
