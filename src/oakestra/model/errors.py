"""The ways a request can fail. Messages say what happened, what it means and what to do next."""

from __future__ import annotations


class OakestraError(Exception):
    """Something asked of a tier could not be done."""

    @property
    def message(self) -> str:
        return str(self)


class Invalid(OakestraError):
    """The request itself is wrong; sending it again will not help."""


class NotFound(OakestraError):
    """The thing named does not exist, or belongs to somebody else."""


class Conflict(OakestraError):
    """The request is fine but what it asks for clashes with what is."""


class Unauthenticated(OakestraError):
    """Who is asking could not be established."""


class Forbidden(OakestraError):
    """The asker is known and may not do this."""


class Unavailable(OakestraError):
    """Something needed is away or full; the same request may succeed later."""


class Rejected(OakestraError):
    """An adapter refused for good: the image does not exist, the port is taken. Not worth repeating soon."""
