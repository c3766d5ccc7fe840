"""Samples as users have them: texts, pictures and recordings in files and folders, with labels or without."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from adaptrt.models.data.split import DataError

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
RECORDINGS = (".wav",)
TABLES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""Files that the package datasets reads, and as what."""
TEXT_COLUMNS = ("text", "sentence", "content", "document", "question")
LABEL_COLUMNS = ("label", "labels", "class", "target")


@dataclass(frozen=True)
class RawData:
    """What was found.

    Attributes:
        name: Of the file or folder.
        kind: "text", "image", "audio", or "arrays".
        items: Texts, or paths of pictures or recordings; empty for arrays.
        labels: One for each item, as the files have them: numbers or names; None: there are none.
        arrays: Inputs by name, ready made; empty for other kinds.
    """

    name: str
    kind: str
    items: Sequence[str | Path] = ()
    labels: Sequence[Any] | None = None
    arrays: dict[str, npt.NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.items) if self.arrays is None else len(next(iter(self.arrays.values())))


def read_files(path: Path, *, text_column: str | None = None, label_column: str | None = None) -> RawData:
    """Read data of any kind that is known.

    Args:
        path: ``.txt`` with a text a line; ``.csv``, ``.jsonl``, ``.json`` or ``.parquet``; ``.npz`` with an array for
            each input; a folder of pictures or wav files, whose subfolders, if all lie in some, are their labels; or
            a folder that ``datasets`` saved.
        text_column: Of tables; None: ``text`` or a like name, or the only column of texts.
        label_column: Of tables; None: ``label`` or a like name if there is one.

    Raises:
        DataError: Nothing is there, it is of no known kind, empty or damaged, or a column is missing.
    """
    require_there(path)
    if path.is_dir():
        saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
        data = _table(path, None, text_column, label_column) if saved else _folder(path)
    elif path.suffix == ".txt":
        data = RawData(path.name, "text", _lines(path))
    elif path.suffix == ".npz":
        data = _arrays(path)
    elif path.suffix in TABLES:
        data = _table(path, TABLES[path.suffix], text_column, label_column)
    else:
        raise DataError(
            f"got data {path.name!r}, expected a folder or a file that ends in .txt, .npz or {', '.join(TABLES)}; "
            "convert it"
        )
    if not len(data):
        raise DataError(f"got no samples in {path}, expected some; look whether it is the right file or folder")
    if data.labels is not None and len({str(label) for label in data.labels}) < 2:
        raise DataError(
            f"got one class only in {path} ({data.labels[0]!r}), expected at least two; give data of all classes, or "
            "without labels"
        )
    return data


def require_there(path: Path) -> None:
    """Refuse a path with nothing there, before anything is done for it.

    Raises:
        DataError: There is neither a file nor a folder.
    """
    if not path.is_dir() and not path.is_file():
        raise DataError(f"got data {str(path)!r}, expected a file or folder that is there; look for a typing error")


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read {path} as UTF-8 ({error.reason} at byte {error.start}); convert it") from error
    return [line.strip() for line in lines if line.strip()]


def _folder(path: Path) -> RawData:
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    for kind, endings in (("image", PICTURES), ("audio", RECORDINGS)):
        items = [file for file in files if file.suffix.lower() in endings]
        if items:
            parents = [file.relative_to(path).parts[0] if file.parent != path else None for file in items]
            labels = parents if all(parent is not None for parent in parents) and len(set(parents)) > 1 else None
            return RawData(path.resolve().name, kind, items, labels)
    raise DataError(
        f"got {len(files)} files in {path}, none of which is a picture or a wav file, expected some; give a file of "
        "texts itself"
    )


def _arrays(path: Path) -> RawData:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged archive fails in many ways: zlib.error, BadZipFile, ...
        raise DataError(f"cannot read {path}: {error}; save it with numpy.savez, an array for each input") from error
    labels = arrays.pop("labels", None)
    if not arrays or len({len(array) for array in arrays.values()}) != 1:
        raise DataError(
            f"got the arrays {', '.join(arrays) or 'none'} in {path}, expected one for each of the model's inputs, as "
            "many samples in each; save them with numpy.savez"
        )
    return RawData(path.stem, "arrays", (), None if labels is None else labels.tolist(), arrays)


def _table(path: Path, kind: str | None, text_column: str | None, label_column: str | None) -> RawData:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{path.name} needs the package datasets; pip install 'adaptrt[pretrained]'") from error
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix="adaptrt-data-") as cache:
        try:
            if kind is None:
                table = datasets.load_from_disk(str(path))
            else:
                table = datasets.load_dataset(kind, data_files=str(path), cache_dir=cache, split="train")
            if isinstance(table, datasets.DatasetDict):
                table = table["train"] if "train" in table else table[next(iter(table))]
            names, features = list(table.column_names), table.features
            text = text_column or _first(names, TEXT_COLUMNS) or _only_text(table)
            label = label_column or _first(names, LABEL_COLUMNS)
            for wanted, name in (("--text-column", text), ("--label-column", label)):
                if name is not None and name not in names:
                    raise DataError(f"got {wanted} {name!r}, expected one of {', '.join(names)} as {path} has them")
            if text is None:
                raise DataError(f"got the columns {', '.join(names)} in {path}, expected --text-column; name one")
            texts = list(table[text])
            kept = [row for row, each in enumerate(texts) if isinstance(each, str) and each.strip()]
            labels = None
            if label is not None:
                column, named = list(table[label]), getattr(features.get(label), "names", None)
                labels = [named[column[row]] if named else column[row] for row in kept]
            return RawData(path.stem, "text", [texts[row] for row in kept], labels)
        except DataError:
            raise
        except Exception as error:  # pyarrow's and datasets' own errors share no base class
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(f"cannot read {path}: {cause}; mend or convert it") from error


def _first(names: Sequence[str], usual: Sequence[str]) -> str | None:
    return next((name for name in usual if name in names), None)


def _only_text(table: Any) -> str | None:
    kinds = {name: getattr(feature, "dtype", "") for name, feature in table.features.items()}
    texts = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
    return texts[0] if len(texts) == 1 else None


def classes_of(labels: Sequence[Any], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Labels as numbers of a model's classes, ``[n]``.

    Args:
        labels: Numbers, or names of classes in any case.
        names: Of the classes, in order.

    Raises:
        DataError: A label is none of them.
    """
    by_name = {name.casefold(): number for number, name in enumerate(names)}
    classes = []
    for place, label in enumerate(labels):
        number = by_name.get(str(label).casefold())
        if number is None and str(label).lstrip("-").isdigit():
            number = int(label)
        if number is None or not 0 <= number < len(names):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise DataError(
                f"got the label {label!r} of sample {place}, expected a class of the model: 0 to {len(names) - 1}, or "
                f"one of {shown}; give data with its classes, or leave labels out"
            )
        classes.append(number)
    return np.asarray(classes, np.int64)
