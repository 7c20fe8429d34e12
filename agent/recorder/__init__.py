"""
The flight recorder: samples of the last days on disk, in segments that survive a power cut.

Knows series and times alone; what is recorded and when is the loop's affair.
"""
