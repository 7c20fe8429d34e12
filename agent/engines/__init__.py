"""
Learns about inference engines: baselines of their speed and memory placement, and the speed of the canary. It neither
samples engines nor acts on them: it reads History and writes readings.
"""
