"""The desktop of a server: one application in a full window, or a whole desktop.

Standard library alone. `server` is the pod's program: it starts the Jupyter server, the display and
what is shown on it, and has applications close themselves before the pod ends.
"""
