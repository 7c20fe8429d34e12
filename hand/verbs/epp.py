"""epp: sets the energy performance preference of one policy under a lease; intel_pstate and amd_pstate have it."""

from __future__ import annotations

from hand.verbs._policies import make_policy_verb

VERB = make_policy_verb(
    "epp", "preference", "energy_performance_preference", "energy_performance_available_preferences"
)
