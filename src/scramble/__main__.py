"""``python -m scramble`` is the ``scramble`` command."""

from scramble.cli import main

main()
