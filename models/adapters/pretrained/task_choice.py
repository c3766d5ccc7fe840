"""What a checkpoint is for, and as which class it is loaded: by Optimum's TasksManager, with a few corrections."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptrt.models.adapters.pretrained.rows import PretrainedError
from adaptrt.models.adapters.pretrained.splice import model_kind, transformers

TASK_NAMES = {
    "text-classification": "classification",
    "image-classification": "classification",
    "audio-classification": "classification",
    "token-classification": "token-classification",
    "question-answering": "question-answering",
    "feature-extraction": "feature-extraction",
    "image-feature-extraction": "feature-extraction",
    "sentence-similarity": "embedding",
    "embedding": "embedding",
    "automatic-speech-recognition": "automatic-speech-recognition",
}
"""Optimum's tasks, and ours."""

_WITHOUT_HEAD = ("feature-extraction", "embedding")

CORRECTED = {
    "CLIPModel": ("feature-extraction", "CLIPVisionModel"),
    "CLIPVisionModelWithProjection": ("feature-extraction", "CLIPVisionModel"),
    "CLIPTextModelWithProjection": ("feature-extraction", "CLIPTextModel"),
    "SiglipModel": ("feature-extraction", "SiglipVisionModel"),
    "SiglipTextModel": ("feature-extraction", "SiglipTextModel"),
    "ElectraForPreTraining": ("feature-extraction", "ElectraModel"),
    "DeiTForImageClassification": ("image-classification", "DeiTForImageClassification"),
    "DeiTForImageClassificationWithTeacher": ("image-classification", "DeiTForImageClassificationWithTeacher"),
}
"""What Optimum does not know or what is no encoder alone: the task, and the class to load. Of two towers it is
the one that sees."""


_PROJECTED = dict.fromkeys(("CLIPModel", "CLIPVisionModelWithProjection"), "CLIPVisionModelWithProjection")
"""Of which class an embedding is what the checkpoint was trained to give."""


@dataclass(frozen=True)
class Choice:
    """How a checkpoint is read.

    Attributes:
        task: Of ``models/tasks``.
        model_class: Of transformers.
        architecture: What the checkpoint was saved as.
    """

    task: str
    model_class: str
    architecture: str


def choose(folder: Path, task: str | None, model_class: str | None) -> Choice:
    """Choose task and class.

    Args:
        folder: With ``config.json``.
        task: As Optimum or as a bundle names it; None: the checkpoint's own.
        model_class: Class of transformers, such as ``CLIPTextModel``; None: what the task and the checkpoint say.

    Raises:
        PretrainedError: The checkpoint is for something else, or does not say what it is.
    """
    saved_as = _architecture(folder)
    if task is not None and task not in TASK_NAMES:
        raise PretrainedError(f"got task {task!r}, expected one of {', '.join(TASK_NAMES)}")
    if task is None and ((folder / "modules.json").is_file() or saved_as == "CLIPVisionModelWithProjection"):
        task = "embedding"
    corrected, usual = CORRECTED.get(saved_as, ("", saved_as))
    wanted = task or corrected or _inferred(model_class or saved_as)
    writes = wanted == "automatic-speech-recognition" and saved_as.endswith("ForConditionalGeneration")
    if wanted not in TASK_NAMES or writes:
        raise PretrainedError(
            f"got {saved_as}, which is for {wanted}, expected one of {', '.join(TASK_NAMES)}; name the task "
            "'feature-extraction' to use its encoder alone"
        )
    if model_class is None and TASK_NAMES[wanted] == "embedding":
        model_class = _PROJECTED.get(saved_as)
    if model_class is None and corrected:
        headless = {TASK_NAMES[corrected], TASK_NAMES[wanted]} <= set(_WITHOUT_HEAD)
        model_class = usual if headless or TASK_NAMES[corrected] == TASK_NAMES[wanted] else None
    if model_class is None:
        model_class = saved_as if task is None else _class_for(folder, wanted, saved_as)
    model_kind(model_class)
    return Choice(TASK_NAMES[wanted], model_class, saved_as)


def read_json(path: Path) -> Any:
    """A file of the checkpoint.

    Raises:
        PretrainedError: It is missing or damaged.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PretrainedError(f"cannot read {path}: {error}; point to a folder with a transformers model") from error


def _architecture(folder: Path) -> str:
    """The class that the checkpoint was saved as."""
    config = read_json(folder / "config.json")
    named = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(named, list) or not named or not isinstance(named[0], str):
        raise PretrainedError(
            f"{folder / 'config.json'} names no architecture, expected architectures with a class of transformers; "
            "save the model again with save_pretrained"
        )
    return named[0]


def _tasks_manager() -> Any:
    try:
        return importlib.import_module("optimum.exporters.tasks").TasksManager
    except ImportError as error:
        raise PretrainedError(
            f"optimum cannot be imported ({error}), expected it to know what a checkpoint is for: install "
            "adaptrt[pretrained]"
        ) from error


def _inferred(name: str) -> str:
    """Optimum's task of a class."""
    kind = model_kind(name)
    try:
        return str(_tasks_manager().infer_task_from_model(kind, library_name="transformers"))
    except ValueError as error:
        raise PretrainedError(
            f"got architecture {name!r}, whose task Optimum does not know; name one of {', '.join(TASK_NAMES)}"
        ) from error


def _class_for(folder: Path, task: str, saved_as: str) -> str:
    """The class for a task that may be another than the checkpoint's own."""
    if _is_for(saved_as, task):
        return saved_as
    package = transformers()
    config = package.AutoConfig.from_pretrained(folder)
    if TASK_NAMES[task] in _WITHOUT_HEAD:
        known: Any = package.AutoModel
    else:
        kind = config.model_type
        known = _tasks_manager().get_model_class_for_task(task, framework="pt", model_type=kind, library="transformers")
    mapping = getattr(known, "_model_mapping", None)
    if mapping is None:
        return str(known.__name__)
    try:
        found = mapping[type(config)]
    except KeyError as error:
        raise PretrainedError(f"got {saved_as} for {task}, which transformers has no such model for") from error
    return str((found[0] if isinstance(found, (tuple, list)) else found).__name__)


def _is_for(saved_as: str, task: str) -> bool:
    """Whether the checkpoint is for that task by itself; hidden states and vectors made of them need the same."""
    try:
        own = TASK_NAMES.get(_inferred(saved_as))
    except PretrainedError:
        own = "feature-extraction" if saved_as.endswith("Model") else ""
    return own == TASK_NAMES[task] or {str(own), TASK_NAMES[task]} <= set(_WITHOUT_HEAD)
