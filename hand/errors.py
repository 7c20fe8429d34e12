"""How a request can end other than well: a code for the program that asked, a sentence for the person who reads it."""

from __future__ import annotations


class HandError(Exception):
    """A request that is not carried out."""

    code = "failed"


class InvalidRequestError(HandError):
    """The request is not what the verb expects."""

    code = "invalid"


class OutcomeUnknownError(HandError):
    """There is no such verb, or not on this host."""

    code = "unknown"


class HandRefusedError(HandError):
    """The request is well formed, and must not or cannot be done here."""

    code = "refused"


class LimitExceededError(HandError):
    """Too much at once, or too often."""

    code = "limited"


class AmbiguousOutcomeError(HandError):
    """It may have been done, or not, or in part: not to be tried again by itself."""

    code = "ambiguous"


class ValueChangedError(HandError):
    """The value is no longer the one that was expected: somebody else changed it, and it is theirs."""

    code = "changed"
