"""
A stress run over an engine: the same request again and again, and whether its speed holds.

sse and client ask any OpenAI-compatible engine; run repeats; summary judges; heat reads what else may have changed;
report and plot show it. Nothing here knows whose engine it is.
"""
