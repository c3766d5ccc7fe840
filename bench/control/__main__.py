"""``python -m adaptrt.bench.control``; see ``simulated_targets``."""

from adaptrt.bench.control.simulated_targets import main
from adaptrt.bench.reports.console import run_command

if __name__ == "__main__":
    run_command(main)
