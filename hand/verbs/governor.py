"""governor: sets the frequency governor of one policy under a lease."""

from __future__ import annotations

from hand.verbs._policies import make_policy_verb

VERB = make_policy_verb("governor", "governor", "scaling_governor", "scaling_available_governors")
