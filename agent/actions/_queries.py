"""Single values that actions query from History."""

from __future__ import annotations

from agent.actions import ActionContext, RefusedError


def query_value(context: ActionContext, expr: str) -> float | None:
    """Returns the first value of an expression, None where it has none."""
    rows = context.query(expr)
    return rows[0][1] if rows else None


def require_value(context: ActionContext, expr: str, description: str) -> float:
    """Returns the first value of an expression; RefusedError names `description` where there is none."""
    value = query_value(context, expr)
    if value is None:
        raise RefusedError(f"{description} is not known")
    return value
