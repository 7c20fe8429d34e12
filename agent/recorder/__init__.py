"""
The flight recorder: keeps samples of the last day on disk, in segments that survive a power cut. It knows only series
and times, and does not decide what is recorded, or when; the loop does.
"""
