"""What can go wrong, told apart by who is to read it.

::

    BinderError            every refusal and failure of the service
    ├── Refused            the request cannot be done as it stands: the person can change something
    └── Failed             it was tried and did not work out

Both carry a finished sentence for the person; what only the operator should see goes to the log.
"""

from __future__ import annotations

from studovna.text import Text


class BinderError(Exception):
    """``message`` is the sentence for the person, ``status`` the HTTP status that says the same."""

    status = 500

    def __init__(self, message: Text, *, status: int | None = None) -> None:
        super().__init__(str(message))
        self.message = message
        if status is not None:
            self.status = status


class Refused(BinderError):
    """The request is malformed, forbidden, or over a limit; nothing was started for it."""

    status = 400


class Failed(BinderError):
    """Something that was started ended badly: a git server, a build, a launch."""
