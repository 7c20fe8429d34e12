"""
Samples the host, evaluates rules, sends alerts and acts on them. It imports `rules` and `collectors`, and neither
imports it; engine and hand are reached only over a socket.
"""
