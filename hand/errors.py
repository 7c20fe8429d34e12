"""The ways a request can fail: each has a code for the calling program and a sentence for the person who reads it."""

from __future__ import annotations


class HandError(Exception):
    """The request was not carried out."""

    code = "failed"


class InvalidRequestError(HandError):
    """The request does not have the form that the verb expects."""

    code = "invalid"


class UnavailableError(HandError):
    """The verb or the lease does not exist, or this host does not support the verb."""

    code = "unknown"


class HandRefusedError(HandError):
    """The request is well formed, but must not or cannot be carried out here."""

    code = "refused"


class LimitExceededError(HandError):
    """The request exceeds a limit of number or rate."""

    code = "limited"


class AmbiguousOutcomeError(HandError):
    """The request may have been carried out fully, in part, or not at all; the caller must not retry by itself."""

    code = "ambiguous"


class ValueChangedError(HandError):
    """Somebody else changed the value; the hand leaves their value alone."""

    code = "changed"


class HandClosingError(HandError):
    """The hand is ending and begins nothing more."""

    code = "closing"

    def __init__(self) -> None:
        super().__init__("the hand is ending and begins nothing more; ask again when it has started again")
