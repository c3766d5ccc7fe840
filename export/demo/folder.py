"""Writing the folder of a demo."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptrt.export.demo.page import INDEX, page_folder
from adaptrt.export.demo.samples import Sample, given_samples, golden_samples
from adaptrt.export.errors import ExportError
from adaptrt.export.staging import staged_folder, write_file
from adaptrt.runtime.bundle.bundle_file import BUNDLE_FILE, Bundle, TensorSpec, read_bundle
from adaptrt.runtime.bundle.bundle_files import bundle_root, locate

MANIFEST = "demo.json"
_FORMAT = 1
_BUNDLE = "bundle"
_SAMPLES = "samples"


@dataclass(frozen=True)
class Demo:
    """What was written.

    Attributes:
        folder: Where.
        samples: How many it offers.
        bytes: Of all files.
    """

    folder: Path
    samples: int
    bytes: int


def check_demo_place(output: Path, page: Path, bundle: Path) -> None:
    """Refuse to replace what is no demo, or holds files that no demo has.

    Args:
        output: The folder to be.
        page: The folder of the built page.
        bundle: The folder of the bundle.

    Raises:
        ExportError: ``output`` is a file, a folder with something else in it, or lies in the bundle.
    """
    if output.resolve().is_relative_to(bundle.resolve()):
        raise ExportError(f"{output} lies in the bundle {bundle}, expected another folder; choose another output")
    if output.exists() and not output.is_dir():
        raise ExportError(f"{output} is a file, expected a folder or nothing; choose another output")
    files = sorted(path.name for path in output.iterdir()) if output.is_dir() else []
    if not files:
        return
    ours = {path.name for path in page.iterdir()} | {MANIFEST, _BUNDLE, _SAMPLES}
    foreign = next((name for name in files if name not in ours), None)
    if foreign is None and MANIFEST in files and INDEX in files:
        return
    got = "is not empty" if foreign is None else f"holds {foreign!r}"
    raise ExportError(
        f"{output} {got}, expected a demo, an empty folder or none, since a demo replaces the whole folder; "
        "choose another output"
    )


def shown_input(bundle: Bundle) -> TensorSpec | None:
    """The input that pictures fill; None where texts fill all inputs.

    Raises:
        ExportError: The page shows no such bundle.
    """
    names = [spec.name for spec in bundle.inputs]
    if bundle.text is not None and set(names) <= set(bundle.text.inputs.values()):
        return None
    first = bundle.inputs[0] if len(bundle.inputs) == 1 else None
    if first is not None and first.preprocessing is not None and len(first.shape) == 4:
        return first
    raise ExportError(
        f"bundle {bundle.name!r} takes {', '.join(map(repr, names))}, expected one picture or a text, with its "
        "preprocessing declared; the page shows no recordings and no plain arrays, run it with `adaptrt run`"
    )


def write_demo(bundle_folder: Path, output: Path, *, page: Path | None = None, samples: Sequence[str] = ()) -> Demo:
    """Write a folder that any static server serves: the page, the bundle and samples.

    Args:
        bundle_folder: The bundle.
        output: The folder to be; a demo that is there is replaced.
        page: The folder of the built page; None for a checkout's own.
        samples: Files of pictures, or texts and ``.txt`` files of them; none: those of the golden runs.

    Raises:
        BundleError: The bundle is damaged.
        ExportError: The page shows no such bundle or is not built, a sample cannot be used, or the folder is none that
            may be replaced.
    """
    built = page_folder(page)
    root = bundle_root(bundle_folder)
    check_demo_place(output, built, root)
    bundle = read_bundle(root)
    picture = shown_input(bundle)
    offered = given_samples(samples, picture) if samples else golden_samples(root, bundle, picture)
    with staged_folder(output, lambda place: check_demo_place(place, built, root)) as folder:
        shutil.copytree(built, folder, dirs_exist_ok=True)
        for file in _files(root, bundle):
            place = folder / _BUNDLE / file
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(locate(root, file), place)
        entries = [_write_sample(folder, number, sample) for number, sample in enumerate(offered)]
        write_file(folder / MANIFEST, json.dumps({"format": _FORMAT, "samples": entries}, indent=1).encode())
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return Demo(output, len(offered), size)


def _files(root: Path, bundle: Bundle) -> list[str]:
    """What of a bundle a browser reads; the dense model's graph may have been left out."""
    graphs = [(stage.file, stage.external_data) for stage in bundle.stages]
    if bundle.dense.file is not None and (root / bundle.dense.file).exists():
        graphs.append((bundle.dense.file, bundle.dense.external_data))
    of_graphs = [file for graph, data in graphs for file in (graph, *(one.file for one in data))]
    return list(dict.fromkeys([BUNDLE_FILE, *of_graphs, *(entry.file for entry in bundle.files)]))


def _write_sample(folder: Path, number: int, sample: Sample) -> dict[str, str]:
    """Its entry in the manifest."""
    if sample.content is None:
        return {"text": sample.text or ""}
    name = f"{_SAMPLES}/{number:02}{sample.suffix}"
    (folder / _SAMPLES).mkdir(exist_ok=True)
    write_file(folder / name, sample.content)
    return {"picture": name}
