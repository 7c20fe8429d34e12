"""
Alerts beyond the rules: to Alertmanagers, from webhooks, silences, identity, and what is stored over a restart.

What fires is decided in `rules/`; nothing here starts a remedy or answers HTTP.
"""
