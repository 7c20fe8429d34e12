"""
Alerts outside the rule evaluator: Alertmanagers, posted alerts, silences, labels, and storage over a restart.

`rules/` decides which alerts fire. This room neither starts remedies nor answers HTTP requests.
"""
