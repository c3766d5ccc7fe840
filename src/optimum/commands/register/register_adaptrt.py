"""Registers ``optimum-cli export adaptive``.

Optimum imports every file of the namespace folder ``optimum/commands/register`` when its command starts, whichever
distribution brings it. No folder on the way has an ``__init__.py``, or it would hide Optimum itself.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class AdaptiveExport(BaseOptimumCLICommand):
    """``optimum-cli export adaptive -m MODEL OUTPUT``; what it does is in ``adaptrt.cli.optimum_export``."""

    COMMAND = CommandInfo(
        name="adaptive", help="Make a PyTorch encoder adaptive and export it to ONNX, to run under a budget (adaptrt)."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options."""
        required = parser.add_argument_group("Required arguments")
        required.add_argument(
            "-m",
            "--model",
            type=Path,
            required=True,
            help="Folder that transformers or sentence-transformers saved, with --data; or that `adaptrt adapt` wrote.",
        )
        required.add_argument("output", type=Path, help="Folder of the bundle.")
        adapting = parser.add_argument_group("To adapt a folder of transformers first")
        adapting.add_argument("--data", type=Path, help="Texts, pictures or recordings; see `adaptrt adapt --help`.")
        adapting.add_argument("--hours", help="Time to adapt; default: --steps decide.")
        adapting.add_argument("--steps", help="Steps in which everything is trained together; default: 2000.")
        adapting.add_argument("--families", help="Of acm,exits,tokens,routes; default: the first three.")
        adapting.add_argument("--task", help="As Optimum names it; default: what the checkpoint says.")
        adapting.add_argument(
            "--work", type=Path, help="Folder for checkpoints and the adapted network; default: OUTPUT.adapt."
        )

    def run(self) -> None:
        """Adapt, if need be, and export; ends the process where something is wrong."""
        from adaptrt.cli.optimum_export import ADAPTING_OPTIONS, export_adaptive

        options = {name: getattr(self.args, name) for name in ADAPTING_OPTIONS}
        export_adaptive(self.args.model, self.args.output, options)


REGISTER_COMMANDS = [(AdaptiveExport, ExportCommand)]
