"""Checks an ``InferenceService`` strictly by the classes of KServe's and Kubernetes' Python clients.

``python -m tests.serving.kserve_schema FILE.yaml``: exit code 0, or 1 and what is wrong. A process of its own: KServe
and Triton's client both register the protocol.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

SCALARS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


class WrongError(Exception):
    """What is wrong with a manifest."""


def built(kind: str, value: Any, where: str) -> Any:
    """A value of a type as the clients name it: ``str``, ``list[V1Container]``, ``dict(str, str)``, ``V1Probe``.

    Raises:
        WrongError: it is something else.
    """
    if kind == "object":
        return value
    if kind in SCALARS:
        fits = isinstance(value, SCALARS[kind]) and (kind == "bool" or not isinstance(value, bool))
        return value if fits else wrong(where, value, kind)
    if inner := re.fullmatch(r"list\[(.+)\]", kind, re.IGNORECASE):
        if not isinstance(value, list):
            wrong(where, value, kind)
        return [built(inner[1], one, f"{where}[{place}]") for place, one in enumerate(value)]
    if inner := re.fullmatch(r"dict[\[(]str, (.+)[\])]", kind, re.IGNORECASE):
        if not isinstance(value, dict):
            wrong(where, value, kind)
        return {key: built(inner[1], one, f"{where}.{key}") for key, one in value.items()}
    return of_class(client_class(kind), value, where)


def of_class(model: Any, value: Any, where: str) -> Any:
    """An object of a client's class, which checks that what it requires is there."""
    if not isinstance(value, dict):
        wrong(where, value, model.__name__)
    names = {written: name for name, written in model.attribute_map.items()}
    fields = {}
    for key, one in value.items():
        if key not in names:
            raise WrongError(f"{where}: got {key!r}, expected one of {', '.join(sorted(names))}")
        fields[names[key]] = built(model.openapi_types[names[key]], one, f"{where}.{key}")
    try:
        return model(**fields)
    except ValueError as error:
        raise WrongError(f"{where}: {error}") from None


def wrong(where: str, value: Any, kind: str) -> Any:
    raise WrongError(f"{where}: got {value!r}, expected {kind}")


def client_class(name: str) -> Any:
    import kserve
    import kubernetes.client

    return getattr(kserve, name, None) or getattr(kubernetes.client, name)


def main() -> None:
    import yaml

    path, sys.argv = Path(sys.argv[1]), sys.argv[:1]  # KServe reads the process's arguments
    manifest = yaml.safe_load(path.read_text())
    try:
        if (manifest.get("apiVersion"), manifest.get("kind")) != ("serving.kserve.io/v1beta1", "InferenceService"):
            raise WrongError("got another kind, expected an InferenceService of serving.kserve.io/v1beta1")
        built("V1beta1InferenceService", manifest, "manifest")
    except WrongError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
