"""
Decides whether a remedy may act, journals it, runs its action in a thread and checks whether it helped.

Model, evidence, guards, claims and transitions are pure; nothing here imports the web, the console or the sampling of
collectors.
"""
