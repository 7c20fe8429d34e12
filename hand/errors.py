"""How a request can end other than well: a code for the program that asked, a sentence for the person who reads it."""

from __future__ import annotations


class HandError(Exception):
    """A request that is not carried out."""

    code = "failed"


class InvalidError(HandError):
    """The request is not what the verb expects."""

    code = "invalid"


class UnknownError(HandError):
    """There is no such verb, or not on this host."""

    code = "unknown"


class RefusedError(HandError):
    """The request is well formed, and must not or cannot be done here."""

    code = "refused"


class LimitedError(HandError):
    """Too much at once, or too often."""

    code = "limited"


class AmbiguousError(HandError):
    """It may have been done, or not, or in part: not to be tried again by itself."""

    code = "ambiguous"


class ChangedError(HandError):
    """The value is no longer the one that was expected: somebody else changed it, and it is theirs."""

    code = "changed"
