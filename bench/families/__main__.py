"""``python -m adaptrt.bench.families``; see ``comparison``."""

from adaptrt.bench.families.comparison import main
from adaptrt.bench.reports.console import run_command

if __name__ == "__main__":
    run_command(main, kept="finished epochs and exports are kept, the same command goes on from there")
