"""
`steadytok engine bench`: sends the same request to an engine repeatedly and reports whether its speed holds. It changes
nothing on the host, needs no running agent, and imports no rules and no remedies.

`client` and `sse` speak to any OpenAI-compatible engine, and `load` repeats a request. `heat` reads temperatures and
frequency before and after, `summary` judges, and `report` and `plot` show the result.
"""
