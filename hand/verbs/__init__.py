"""
The verbs of the hand, one file each, and the list of them by name. A verb touches only the files and units that
hand.toml and its own checks allow, and imports no other verb.
"""

from __future__ import annotations

from collections.abc import Mapping

from hand.verb import Verb
from hand.verbs import command, compact, drop_caches, epp, freeze, governor, migrate, reclaim

VERBS: Mapping[str, Verb] = {
    module.VERB.name: module.VERB for module in (command, compact, drop_caches, epp, freeze, governor, migrate, reclaim)
}
