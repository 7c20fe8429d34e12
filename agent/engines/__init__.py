"""
Learns about inference engines: baselines of their speed and memory placement, and the speed of the canary.

Reads History and writes readings. A collector samples the engines, and remedies act on them.
"""
