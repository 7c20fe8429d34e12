"""
Decides whether a remedy may act, journals it, runs its action in a thread and checks whether it helped. Nothing here
imports the web, the console or the sampling of collectors.

Model, evidence, guards, claims and transitions are pure.
"""
