"""
Runs the collectors: which there are, in which thread or eye process each runs, and when its next pass is due.

Results go up to the loop as values; nothing here knows rules, alerts, remedies or HTTP.
"""
