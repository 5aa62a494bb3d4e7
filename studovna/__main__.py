"""``python -m studovna`` is the ``studovna`` command."""

from studovna.cli import app

app()
