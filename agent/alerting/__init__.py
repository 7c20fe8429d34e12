"""
Handles alerts outside the rule evaluator: Alertmanagers, posted alerts, silences, labels, and storage over a restart.
It does not decide which alerts fire (`rules/` does), starts no remedies and answers no HTTP requests.
"""
