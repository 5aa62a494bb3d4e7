"""Studovna: JupyterHub and BinderHub for universities and research infrastructures."""

__version__ = "0.1.0"
