"""
Finds the collectors, runs each in a thread or an eye process, and decides when its next pass is due.
Results go up to the loop as values: this room imports no rules, alerts, remedies or HTTP.
"""
