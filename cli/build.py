"""``adaptrt build``: prepare a bundle for an engine, and build the engine where its library is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adaptrt.cli.errors import CommandError
from adaptrt.cli.table_options import TableChoice, TableOption
from adaptrt.cli.verb import PATH, Verb, json_option, keep_on_interrupt

if TYPE_CHECKING:
    from adaptrt.export.targets.build import BuildReport


def _examples() -> str:
    from adaptrt.runtime.bundle.target_table import REPOSITORIES, TARGETS

    lines = [(target.name, options) for target in TARGETS.values() for options in target.examples]
    lines += [(target.name, options) for target in REPOSITORIES.values() for options in target.examples]
    return "\n".join(f"adaptrt build build/digits --target {name} {options}".rstrip() for name, options in lines)


def _what_is_built() -> str:
    from adaptrt.runtime.bundle.target_table import REPOSITORIES, TARGETS

    made = [(target.name, target.made) for target in TARGETS.values()]
    made += [(target.name, target.made) for target in REPOSITORIES.values()]
    return " ".join(f"{name}: {what}." for name, what in made)


def _targets() -> str:
    """Help for ``--target``."""
    from adaptrt.runtime.bundle.target_table import all_targets
    from adaptrt.runtime.table import either

    return f"{either(all_targets())}."


def _precisions() -> Sequence[str]:
    from adaptrt.runtime.bundle.target_table import all_precisions

    return all_precisions()


def _plugins() -> Sequence[str]:
    from adaptrt.runtime.bundle.target_table import all_plugins

    return all_plugins()


@click.command(cls=Verb, examples=_examples, details=_what_is_built)
@click.argument("bundle", type=PATH)
@click.option("--target", cls=TableOption, required=True, metavar="TARGET", table_help=_targets)
@click.option(
    "--precision",
    type=TableChoice(_precisions),
    help="Of weights and activations; what decides stays in float32. Default: the target's first.",
)
@click.option(
    "--arch",
    "architectures",
    type=click.IntRange(50, 999),
    multiple=True,
    help="Compute capability, as 89; several times for one engine that serves several. Default: this machine's GPU; "
    "without one 86, 89 and 120, where the target can be built for other machines.",
)
@click.option(
    "--plugins",
    type=TableChoice(_plugins),
    default="none",
    show_default=True,
    help="Where adaptrt's ops come from: standard operators, a plugin library, or kernels compiled into the engine.",
)
@click.option("--plugin-library", type=PATH, metavar="FILE.so", help="The library, for --plugins library.")
@click.option(
    "--kernels",
    type=PATH,
    default=Path("build/kernels"),
    show_default=True,
    help="Folder of the compiled kernels, for --plugins python; `make kernels` writes it.",
)
@click.option(
    "--engine-version",
    default="",
    metavar="VERSION",
    help="TensorRT of the device, as 10.3, where it is not installed here. From 10.7 on, bodies stay beside plugins.",
)
@click.option("--batch", default="1:1:64", show_default=True, metavar="MIN:OPT:MAX", help="Batch sizes to build for.")
@click.option(
    "--tokens", metavar="MIN:OPT:MAX", help="Numbers of tokens to build for, where they vary; default: 1 to all."
)
@click.option(
    "--weight-bits",
    type=click.IntRange(7, 8),
    default=7,
    show_default=True,
    help="Of int8 weights: 7 is right on every CPU, 8 on those with VNNI, AMX or Arm's dot products.",
)
@click.option(
    "--activations",
    type=click.Choice(["auto", "static", "token"]),
    default="auto",
    show_default=True,
    help="Scales of int8 activations: fixed ones of the golden inputs' range, one for each token, or whichever keeps "
    "the quality.",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="How much less than the bundle's the share of golden predictions may be; below that nothing is written.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Run the prepared graphs where the engine compiles them itself and is installed, and compare.",
)
@click.option("--rebuild", is_flag=True, help="Build also what is there already.")
@click.option(
    "--output",
    cls=TableOption,
    type=PATH,
    metavar="FOLDER",
    table_help=lambda: f"Folder of models, for {' and '.join(_repositories())}; default: beside the bundle.",
)
@click.option(
    "--as-bundle",
    type=PATH,
    metavar="FOLDER",
    help="Also write what was built in int8 for ONNX Runtime as a bundle of its own, which every runtime takes.",
)
@json_option
def build(
    bundle: Path,
    target: str,
    precision: str | None,
    architectures: tuple[int, ...],
    plugins: str,
    plugin_library: Path | None,
    kernels: Path,
    engine_version: str,
    batch: str,
    tokens: str | None,
    weight_bits: int,
    activations: str,
    max_quality_drop: float,
    verify: bool,
    rebuild: bool,
    output: Path | None,
    as_bundle: Path | None,
    as_json: bool,
) -> None:
    """Prepare a bundle for an engine, build the engine.

    The result is kept in the bundle's folder, under engines/TARGET-PRECISION; what is made for another server lies in a
    folder of its own.

    What is there is kept if it was made of the same bundle, for the same engine version, architecture, shapes and
    plugins; otherwise it is built again, and the reason told.
    """
    from adaptrt.cli.output import note, show, show_json
    from adaptrt.cli.progress import steps_shown
    from adaptrt.export.targets.build import build_target
    from adaptrt.export.targets.portable_int8 import write_int8_bundle
    from adaptrt.export.targets.profiles import SizeRange
    from adaptrt.export.targets.target_builder import BuildSettings
    from adaptrt.runtime.backends.backend_table import DEFAULT_BACKEND
    from adaptrt.runtime.bundle.target_table import REPOSITORIES, TARGETS, all_targets

    keep_on_interrupt("the bundle is as it was")
    if target not in all_targets():
        raise CommandError(f"got target {target!r}, expected one of {', '.join(all_targets())}; name one")
    if target in REPOSITORIES:
        _build_model(bundle, target, precision, batch, output, as_json)
        return
    if output is not None:
        raise CommandError(
            f"got --output for {target}, expected none: its engines are kept in the bundle; leave it out"
        )
    if as_bundle is not None and target != DEFAULT_BACKEND:
        raise CommandError(f"got --as-bundle for {target}, expected it for {DEFAULT_BACKEND}; leave it out")
    if plugin_library is not None and not plugin_library.is_file():
        raise CommandError(
            f"no file {str(plugin_library)!r}, expected the plugin library; build it with plugins_trt/csrc"
        )
    settings = BuildSettings(
        target=target,
        precision=precision or (TARGETS[target].precisions[0]),
        architectures=architectures,
        plugins=plugins,
        plugin_library=plugin_library,
        engine_version=engine_version,
        batch=SizeRange.parse(batch),
        tokens=None if tokens is None else SizeRange.parse(tokens),
        max_quality_drop=max_quality_drop,
        verify=verify,
        weight_bits=weight_bits,
        activations=activations,
        rebuild=rebuild,
    )
    with steps_shown() as progress:
        report = build_target(bundle, settings, progress=progress, register_plugins=_python_plugins(kernels))
    if as_bundle is not None:
        write_int8_bundle(bundle, as_bundle)
    for remark in report.notes:
        note(remark)
    if as_json:
        show_json(_plain(report))
        return
    from adaptrt.cli import tables

    state = "was there already" if report.reused else "built"
    show(tables.engines_table(report), tables.engines_quality(report), f"{report.folder} {state}")
    for command in report.commands:
        show(command)
    if as_bundle is not None:
        show(f"{as_bundle} written: the same as a bundle")


def _repositories() -> Sequence[str]:
    from adaptrt.runtime.bundle.target_table import REPOSITORIES

    return tuple(REPOSITORIES)


_OF_MODELS = ("bundle", "target", "precision", "batch", "output", "as_json")
"""What may be said of a model for another server."""


def _build_model(
    bundle: Path, target: str, precision: str | None, batch: str, repository: Path | None, as_json: bool
) -> None:
    """Write a bundle as a model for another server."""
    from adaptrt.cli.output import note, show, show_json
    from adaptrt.export.targets.profiles import SizeRange
    from adaptrt.export.targets.repository import RepositorySettings, write_model
    from adaptrt.runtime.bundle.target_table import REPOSITORIES

    context = click.get_current_context()
    for option in context.command.params:
        named = context.get_parameter_source(option.name or "") is not click.core.ParameterSource.DEFAULT
        if named and option.name not in _OF_MODELS:
            raise CommandError(f"got {option.opts[0]} for {target}, expected none: no engine is built; leave it out")
    record = REPOSITORIES[target]
    settings = RepositorySettings(
        target,
        bundle.resolve().parent / target if repository is None else repository,
        precision or record.precisions[0],
        SizeRange.parse(batch).maximum,
    )
    report = write_model(bundle, settings)
    for remark in report.notes:
        note(remark)
    if as_json:
        show_json({"folder": report.folder, "model": report.model, "notes": report.notes})
        return
    show(f"{report.folder} built: model {report.model}; tritonserver --model-repository {settings.repository}")


def _python_plugins(kernels: Path) -> Callable[[int, Sequence[str]], None]:
    """What registers adaptrt's ahead-of-time plugins with TensorRT."""

    def register(architecture: int, ops: Sequence[str]) -> None:
        from adaptrt.plugins_trt.manifest import read_manifest
        from adaptrt.plugins_trt.python_plugins import register_plugins

        register_plugins(read_manifest(kernels), architecture, ops)

    return register


def _plain(report: BuildReport) -> dict[str, object]:
    return {
        "folder": report.folder,
        "reused": report.reused,
        "engines": report.engines,
        "commands": report.commands,
        "notes": report.notes,
        "quality": None if report.quality is None else report.quality.rows,
        "openvino_difference": report.verified,
    }
