"""
The templates of labels and annotations: a small Go text/template interpreter with Prometheus' functions.

A template is parsed when its rule is loaded. Expanding never raises: the text then contains the error.
https://prometheus.io/docs/prometheus/latest/configuration/template_reference/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rules.templates.budget import Budget
from rules.templates.functions import ExpansionContext, QueryFunction, list_function_names
from rules.templates.interpreter import Interpreter
from rules.templates.lexer import TemplateError
from rules.templates.nodes import Body
from rules.templates.parser import parse
from rules.templates.values import StringMap, TemplateRecord

__all__ = ["Budget", "QueryFunction", "Scope", "Template", "TemplateError"]

MAX_LENGTH = 64 << 10
"""Characters of a template; the same limit as for an expression."""

MAX_REASON_LENGTH = 2_000
"""Characters of an error, which quotes the template and its values."""

_PROLOGUE = (
    "{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}{{$externalURL := .ExternalURL}}{{$value := .Value}}"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """
    The inputs that one alert gives its templates; `labels` are the sample's, with `__name__`; `query` may raise.

    All alerts of one evaluation of a rule share one `budget`.
    """

    labels: Mapping[str, str]
    value: float
    external_labels: Mapping[str, str]
    external_url: str
    now_ms: int
    query: QueryFunction
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class Template:
    """The parsed text of one label or annotation; a text without `{{` expands to itself."""

    name: str
    text: str
    bodies: Mapping[str, Body]

    @classmethod
    def parse(cls, alert: str, text: str) -> Template:
        """Parses an alert's label or annotation; raises TemplateError for wrong syntax."""
        name = "__alert_" + alert
        if "{{" not in text:
            return cls(name, text, {})
        if len(text) > MAX_LENGTH:
            raise TemplateError(f"error parsing template {name}: it is longer than {MAX_LENGTH:,} characters")
        try:
            return cls(name, text, parse(name, _PROLOGUE + text, list_function_names()))
        except TemplateError as error:
            raise TemplateError(f"error parsing template {name}: {error}") from None

    @classmethod
    def from_literal(cls, text: str) -> Template:
        """Wraps a text that is no template, such as a label of a recording rule."""
        return cls("", text, {})

    def expand(self, scope: Scope) -> str:
        """Returns the text for one alert; never raises: an error becomes `<error expanding template: ...>`."""
        if not self.bodies:
            return self.text
        try:
            return self._interpret(scope)
        except Exception as error:  # no error of a template may lose the alert
            reason = "nested too deeply" if isinstance(error, RecursionError) else error
            return (
                f"<error expanding template: error executing template {self.name}: {str(reason)[:MAX_REASON_LENGTH]}>"
            )

    def _interpret(self, scope: Scope) -> str:
        context = ExpansionContext(scope.now_ms, scope.external_url, scope.query, scope.budget)
        return Interpreter(self.name, _PROLOGUE + self.text, self.bodies, context).run(_AlertData(scope))


class _AlertData(TemplateRecord):
    """The dot of an alert's template."""

    type_name = (
        "struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; Value float64 }"
    )

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    def fields(self) -> Mapping[str, object]:
        return {
            "Labels": StringMap(self.scope.labels),
            "ExternalLabels": StringMap(self.scope.external_labels),
            "ExternalURL": self.scope.external_url,
            "Value": self.scope.value,
        }
