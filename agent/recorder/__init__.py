"""
The flight recorder: samples of the last day on disk, in segments that survive a power cut.

Knows only series and times; the loop decides what is recorded, and when.
"""
