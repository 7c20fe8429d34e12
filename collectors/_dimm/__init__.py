"""
Identifies memory modules: SMBIOS and SPD tables, names of sensors, and the slot of each sensor.

Serves the collectors `dimm`, `dmi` and `hwmon`. Imports `_host` and no collector.
"""
