"""
Identifies memory modules: SMBIOS and SPD tables, names of sensors, and the slot of each sensor. It imports `_host` and
no collector.

Serves the collectors `dimm`, `dmi` and `hwmon`.
"""
