"""Lists every verb by its name."""

from __future__ import annotations

from collections.abc import Mapping

from hand.verb import Verb
from hand.verbs import command, compact, drop_caches, epp, freeze, governor, migrate, reclaim

VERBS: Mapping[str, Verb] = {
    module.VERB.name: module.VERB for module in (command, compact, drop_caches, epp, freeze, governor, migrate, reclaim)
}
