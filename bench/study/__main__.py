"""``python -m adaptrt.bench.study``; see ``command``."""

from adaptrt.bench.reports.console import run_command
from adaptrt.bench.study.command import main

if __name__ == "__main__":
    run_command(main, kept="finished epochs, exports and comparisons are kept, the same command goes on from there")
