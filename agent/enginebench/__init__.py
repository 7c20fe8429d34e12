"""
`steadytok engine bench`: sends the same request to an engine repeatedly and reports whether its speed holds.

Nothing here depends on who runs the engine, or on a running agent.

`client` and `sse` speak to any OpenAI-compatible engine, and `load` repeats a request. `heat` reads temperatures and
frequency before and after, `summary` judges, and `report` and `plot` show the result.
"""
