"""The image's description and KServe's manifest: they say what the server takes, and KServe's classes read them."""

from __future__ import annotations

import copy
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from adaptrt.cli.serve import serve

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed: install adaptrt[serve]")

ROOT = Path(__file__).parent.parent.parent
CONTAINER = ROOT / "runtime" / "serving" / "container"
MANIFEST = CONTAINER / "inference_service.yaml"


def checked(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.serving.kserve_schema", str(path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


def container(manifest: Any) -> Any:
    (one,) = manifest["spec"]["predictor"]["containers"]
    return one


def taken(words: list[str]) -> dict[str, Any]:
    """What ``adaptrt serve`` makes of arguments."""
    with click.Context(serve) as context:
        serve.parse_args(context, words)
        return context.params


@pytest.mark.slow("imports KServe in a process of its own")
def test_kserve_takes_the_manifest() -> None:
    done = checked(MANIFEST)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow("imports KServe in processes of their own")
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda spec: spec.update(minReplica=1), "manifest.spec.predictor: got 'minReplica', expected one of"),
        (lambda spec: spec.update(scaleTarget="8"), "scaleTarget: got '8', expected int"),
        (lambda spec: spec["containers"][0].pop("name"), "containers[0]: "),
        (lambda spec: spec["containers"][0]["readinessProbe"].update(httpGet={"path": "/"}), "httpGet: "),
    ],
)
def test_a_wrong_manifest_is_seen(tmp_path: Path, change: Callable[[Any], object], told: str) -> None:
    manifest = copy.deepcopy(yaml.safe_load(MANIFEST.read_text()))
    change(manifest["spec"]["predictor"])
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(manifest))
    done = checked(tmp_path / "wrong.yaml")
    assert done.returncode == 1 and told in done.stderr, done.stderr


def test_the_manifest_and_the_server_agree() -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    predictor, one = manifest["spec"]["predictor"], container(manifest)
    params = taken(one["args"])
    mounts = {mount["mountPath"]: mount for mount in one["volumeMounts"]}
    assert str(params["bundles"][0]).startswith(next(path for path in mounts if path != "/tmp"))
    assert one["ports"][0]["containerPort"] == params["http_port"]
    assert params["grace_seconds"] < predictor["terminationGracePeriodSeconds"]
    assert str(params["threads"]) == one["resources"]["limits"]["cpu"] == one["resources"]["requests"]["cpu"]
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        assert one[probe]["httpGet"]["path"].startswith("/v2/health/")
        assert one[probe]["httpGet"]["port"] == params["http_port"]
    assert predictor["scaleMetric"] == "concurrency"
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in predictor["volumes"]}


def test_the_image_starts_the_server_as_nobody_special() -> None:
    text = (CONTAINER / "Containerfile").read_text().replace("\\\n", "")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    known = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "CMD", "STOPSIGNAL"}
    assert {step for step, _ in steps} <= known | {"ENTRYPOINT"}
    assert [words for step, words in steps if step == "FROM"][-1].endswith("-slim")
    uid = next(words for step, words in steps if step == "USER")
    manifest = yaml.safe_load(MANIFEST.read_text())
    assert uid == str(container(manifest)["securityContext"]["runAsUser"]) != "0"
    entry = yaml.safe_load(next(words for step, words in steps if step == "ENTRYPOINT"))
    params = taken([*entry[2:], *yaml.safe_load(next(words for step, words in steps if step == "CMD"))])
    assert entry[:2] == ["adaptrt", "serve"] and params["host"] == "0.0.0.0"
    exposed = [int(port) for port in next(words for step, words in steps if step == "EXPOSE").split()]
    assert exposed == [params["http_port"], params["grpc_port"]]
    assert f":{params['http_port']}/v2/health/ready" in next(words for step, words in steps if step == "HEALTHCHECK")
    for step, words in steps:
        if step == "COPY" and not words.startswith("--from"):
            assert all((ROOT / name).exists() for name in shlex.split(words)[:-1]), words
