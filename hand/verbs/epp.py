"""epp: the energy performance preference of one policy, held by a lease; intel_pstate and amd_pstate have it."""

from __future__ import annotations

from hand.verbs._policies import policy_verb

VERB = policy_verb("epp", "preference", "energy_performance_preference", "energy_performance_available_preferences")
