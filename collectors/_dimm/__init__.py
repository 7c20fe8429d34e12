"""
Memory modules: SMBIOS and SPD tables, the names of their sensors, and which slot each sensor is of.

Furniture of the collectors `dimm` and `dmi`; it yields no sample itself.
"""
