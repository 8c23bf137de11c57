"""``python -m scramble`` runs the ``scramble`` command."""

from scramble.cli import main

main()
