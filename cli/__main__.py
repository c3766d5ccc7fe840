"""``python -m adaptrt.cli`` is the ``adaptrt`` command."""

from adaptrt.cli.main import main

main()
