"""Finding a user's network: ``my_module:make``, a class or a function of a module of theirs."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from types import ModuleType

from adaptrt.export.errors import ExportError
from adaptrt.export.graph.user_code import where_raised
from adaptrt.export.own.dense_form import DenseForm
from adaptrt.export.own.derived_network import DerivedNetwork
from adaptrt.export.own.independence import require_independent
from adaptrt.models.folder import LoadedModel
from adaptrt.models.own import Adaptive


def is_reference(text: str) -> bool:
    """Whether a text means something in a Python module, as ``my_module:make`` does."""
    module, colon, name = text.partition(":")
    return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def load_user_network(reference: str) -> LoadedModel:
    """Import a module, make a network, and derive what export needs of it.

    Args:
        reference: ``module:name``; the module is in the current folder or on Python's path, and the name is that of a
            function without arguments that returns an ``Adaptive``, or of such a class.

    Raises:
        ExportError: It is not there, or it is no network that can be exported.
    """
    module_name, _, name = reference.partition(":")
    module = _imported(module_name)
    network = getattr(module, name, None)
    if network is None:
        known = [each for each, value in vars(module).items() if _makes(value, module)]
        raise ExportError(
            f"got {reference!r}, and {module_name} has no {name}, expected a function or a class of it"
            f"{': ' + ', '.join(known) if known else ''}; name one"
        )
    if callable(network) and not isinstance(network, Adaptive):
        try:
            network = network()
        except Exception as error:  # the user's code raises what it likes
            raise ExportError(
                f"{reference} raised {type(error).__name__}: {_text(error)} at {where_raised(error)}; expected a "
                "network from a call without arguments"
            ) from error
    return derived_model(network, module_name.rpartition(".")[2])


def derived_model(network: object, name: str) -> LoadedModel:
    """A user's network ready to export.

    Args:
        network: An ``Adaptive``.
        name: Names the bundle.

    Raises:
        ExportError: It is none, or cannot be exported.
    """
    if not isinstance(network, Adaptive):
        raise ExportError(
            f"got a {type(network).__name__}, expected an adaptrt.models.Adaptive; derive from it and write example, "
            "stage and leave"
        )
    if "_modules" not in vars(network):
        raise ExportError(
            f"{type(network).__name__}.__init__ does not call super().__init__(), expected it to; call it first"
        )
    missing = [
        each for each in ("example", "stage", "leave") if getattr(type(network), each) is getattr(Adaptive, each)
    ]
    if missing:
        raise ExportError(f"{type(network).__name__} has no {' and no '.join(missing)}, expected each; write it")
    derived = DerivedNetwork(network)
    require_independent(derived)
    return LoadedModel(name, derived, DenseForm(derived), None)


def _imported(name: str) -> ModuleType:
    folder = os.getcwd()  # noqa: PTH109  # as Python has it in sys.path
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ExportError(
                f"got module {name!r}, which is neither in {folder} nor on Python's path, expected one; change to its "
                "folder, or set PYTHONPATH"
            ) from error
        raise ExportError(
            f"module {name} imports {error.name}, which is not installed, expected it; install it"
        ) from error
    except Exception as error:  # the user's code raises what it likes
        raise ExportError(
            f"cannot import {name}: {type(error).__name__}: {_text(error)} at {where_raised(error)}; mend it"
        ) from error


def _makes(value: object, module: ModuleType) -> bool:
    """Whether a name of a module could be meant."""
    defined_here = getattr(value, "__module__", None) == module.__name__
    return defined_here and (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, Adaptive)))


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"
