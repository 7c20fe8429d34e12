"""Tests of templates: Go's text/template with Prometheus' functions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.promql import PromqlError
from rules.templates.template import Scope, Template, TemplateError

SAMPLES: dict[str, list[tuple[tuple[tuple[str, str], ...], float]]] = {
    "m": [((("__name__", "m"), ("i", "1")), 4.0)],
    "p": [((("k", "b"),), 2.0), ((("k", "a"),), 1.0)],
    "nothing": [],
}


def _query(text: str) -> Sequence[tuple[tuple[tuple[str, str], ...], float]]:
    if text not in SAMPLES:
        raise PromqlError("parse error: no such thing")
    return SAMPLES[text]


def _expand(text: str, value: float = 21.0, now_ms: int = 1_500_000_000_250) -> str:
    labels = {"__name__": "m", "i": "1", "host": "db1.example.com:9100"}
    scope = Scope(labels, value, {"site": "lab"}, "http://host:9817/prom", now_ms, _query)
    return Template.parse("A", text).expand(scope)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567.0, "1.234567e+06"),
        (21.0, "21"),
        (100000.0, "100000"),
        (0.000012345, "1.2345e-05"),
        (123456.789, "123456.789"),
        (1e21, "1e+21"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Inf"),
        (float("inf"), "+Inf"),
        (999999.5, "999999.5"),
        (1000000.0, "1e+06"),
        (2097152.0, "2.097152e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (0.0, "0"),
        (-0.0, "-0"),
    ],
)
def test_a_value_prints_as_go_prints_a_float(value: float, text: str) -> None:
    """The shortest digits that read back, with an exponent below -4 and from 6 on."""
    assert _expand("{{ $value }}", value) == text


@pytest.mark.parametrize(
    ("template", "value", "text"),
    [
        ("humanize", 1234567.0, "1.235M"),
        ("humanize", 0.5, "500m"),
        ("humanize1024", 123456.789, "120.6ki"),
        ("humanizePercentage", 21.0, "2100%"),
        ("humanizeDuration", 123456.789, "1d 10h 17m 36s"),
        ("humanizeDuration", 0.5, "500ms"),
        ("humanizeDuration", 0.0, "0s"),
        ("humanizeDuration", -61.5, "-1m 1s"),
        ("humanizeTimestamp", 0.5, "1970-01-01 00:00:00.5 +0000 UTC"),
    ],
)
def test_numbers_are_humanized(template: str, value: float, text: str) -> None:
    """The golden values measured on promtool."""
    assert _expand(f"{{{{ {template} $value }}}}", value) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ $labels }}", "map[__name__:m host:db1.example.com:9100 i:1]"),
        ("{{ $labels.nothing }}|{{ $labels.i }}", "|1"),
        ("{{ title `hello wORLD` }}", "Hello WORLD"),
        ("{{ title `don't stop` }}", "Don't Stop"),
        ("{{ reReplaceAll `a(.)` `$1x` `abac` }}", ""),
        ("{{ reReplaceAll `a(.)` `${1}x` `abac` }}", "bxcx"),
        ("{{ toUpper `straße` }}{{ toLower `ÄB` }}", "STRAßEäb"),
        ("{{ stripPort $labels.host }} {{ stripDomain $labels.host }}", "db1.example.com db1:9100"),
        ("{{ stripDomain `10.0.0.1:80` }}", "10.0.0.1:80"),
        ("{{ externalURL }} {{ pathPrefix }} {{ $externalLabels.site }}", "http://host:9817/prom /prom lab"),
        ("{{ graphLink `a b` }} {{ tableLink `x` }}", "/graph?g0.expr=a+b&g0.tab=0 /graph?g0.expr=x&g0.tab=1"),
        ("{{ now }}", "1.50000000025e+09"),
        ("{{ toTime 1.5 }} {{ (toTime 86400).Day }}", "1970-01-01 00:00:01.5 +0000 UTC 2"),
        ("{{ toDuration 5400 }} {{ toDuration 0.0015 }} {{ (toDuration 90).Minutes }}", "1h30m0s 1.5ms 1.5"),
        ("{{ (1435065584.128 | toTime).Format `Mon 2 Jan 2006 3:04PM .000` }}", "Tue 23 Jun 2015 1:19PM .128"),
        ("{{ (toTime 0).Weekday }} {{ (toTime 0).UTC.YearDay }} {{ (toTime 5.5).Unix }}", "Thursday 1 5"),
        ("{{ ((toTime 60).Add (toDuration 90)).Sub (toTime 0) }} {{ (toTime 0).Before (toTime 1) }}", "2m30s true"),
        ("{{ (toDuration 90).Round (toDuration 60) }} {{ (toDuration 90).Seconds }}", "2m0s 90"),
        ("{{ (toDuration -90).Truncate (toDuration 60) }} {{ (toDuration 90).String }}", "-1m0s 1m30s"),
        ("{{ toDuration 90 | humanizeDuration }} {{ gt ((toDuration 90).Round 1) 5 }}", "1m 30s true"),
        ("{{ parseDuration `1h30m` }} {{ urlQueryEscape `a b&` }}", "5400 a+b%26"),
        ("{{ with query `m` }}{{ . | first | value }}/{{ . | first | label `i` }}{{ end }}", "4/1"),
        ("{{ range query `p` | sortByLabel `k` }}{{ .Labels.k }}={{ .Value }} {{ end }}", "a=1 b=2 "),
        ("{{ range query `nothing` }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $i, $s := query `p` }}{{ if $i }},{{ end }}{{ $s.Labels.k }}{{ end }}", "b,a"),
        ("{{ range 3 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ . }}{{ end }}", "02"),
        ("{{ range 3 }}{{ break }}{{ end }}.", "."),
        ("{{ define `x` }}[{{ . }}]{{ end }}{{ template `x` $labels.i }}", "[1]"),
        ("{{ block `x` 7 }}<{{ . }}>{{ end }}", "<7>"),
        ("{{ if gt $value 20.0 }}hot{{ else if true }}warm{{ else }}cold{{ end }}", "hot"),
        ("{{ with $labels.nothing }}a{{ else with $labels.i }}b{{ . }}{{ end }}", "b1"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ end }}{{ $x }}", "2"),
        ("a {{- `b` -}} c {{- /* gone */}}", "abc"),
        ("{{ printf `%.1f%% of %s|%5d|%q` $value $labels.i 7 `x` }}", '21.0% of 1|    7|"x"'),
        ("{{ printf `%[2]s-%[1]s %[1]q|%[3]*[1]s|%[9]s` `a` `b` 3 }}", 'b-a "a"|  a|%!s(BADINDEX)'),
        ("{{ args 1 `b` }} {{ (args 1).arg9 }}", "map[arg0:1 arg1:b] <no value>"),
        ("{{ safeHtml `<b>` }}{{ html `<b>` }}{{ js `'` }}{{ urlquery `a b` }}", "<b>&lt;b&gt;\\'a+b"),
        ("{{ len `äb` }} {{ index $labels `i` }} {{ slice `abc` 1 }} {{ eq 2 1 2 }}", "3 1 bc true"),
    ],
)
def test_a_template_expands(template: str, text: str) -> None:
    """Templates with actions, variables, nested templates and functions of every family expand."""
    assert _expand(template) == text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ .Nope }}", "can't evaluate field Nope in type struct"),
        ("{{ $value.x }}", '1:121: executing "__alert_A" at <$value.x>: can\'t evaluate field x in type float64>'),
        ("{{ humanize `x` }}", 'error calling humanize: strconv.ParseFloat: parsing "x": invalid syntax'),
        ("{{ first (query `nothing`) }}", "first() called on vector with no elements"),
        ("{{ query `rubbish` }}", "error calling query: parse error: no such thing"),
        ("{{ gt $value 1 }}", "incompatible types for comparison"),
        ("{{ template `x` }}", 'template "x" not defined'),
        ("{{ define `x` }}{{ template `x` }}{{ end }}{{ template `x` }}", "exceeded maximum template depth"),
        ("{{ (toTime 0).Format }}", "at <0>: wrong number of args for Format: want 1 got 0"),
        ("{{ (toTime 0).AddDate 9000 0 0 }}", "error calling AddDate: the time is outside the years 1 to 9999"),
        ("{{ gt (toDuration 90) 5 }}", "invalid type for comparison"),
        ("{{ $t := toTime 0 }}{{ $t.Never }}", "can't evaluate field Never in type *time.Time"),
        ("{{ reReplaceAll `(` `` `` }}", "error parsing regexp: missing )"),
        ("{{ range 1000000 }}x{{ end }}", "the template exceeds its work limit"),
        ("{{ $x := printf `%1000000d` 1 }}{{ $x }}{{ $x }}", "writes more than 1048576 characters"),
    ],
)
def test_a_failure_becomes_the_text(template: str, reason: str) -> None:
    """A failing annotation never loses the alert: the text names the error and its position."""
    text = _expand(template)

    assert text.startswith("<error expanding template: error executing template __alert_A: ")
    assert reason in text


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ nofunction 1 }}", 'function "nofunction" not defined'),
        ("x\n{{ $nope }}", '__alert_A:2: undefined variable "$nope"'),
        ("{{ if 1 }}", "unexpected EOF"),
        ("{{ end }}", "unexpected {{end}}"),
        ("{{ $labels", "unclosed action"),
        ("{{ break }}", "{{break}} outside {{range}}"),
        ("{{ 1 | 2 }}", "non executable command in pipeline stage 2"),
        ("{{ (toTime 0).Local }}", "a time has no method Local here; it has Add,"),
        ("{{ ($value | toTime).UTC.Fromat `06` }}", "a time has no method Fromat here"),
        ("{{ ((toTime 1).Sub (toTime 0)).Days }}", "a duration has no method Days here; it has Abs, Hours,"),
        ("{{ tmpl `x` . }}", 'function "tmpl" not defined'),
        ("{{ `a }}", "unterminated raw quoted string"),
        ("{{if 1}}" * 200 + "{{end}}" * 200, "nested more than 100 deep"),
        ("".join(f"{{{{ $v{number} := 1 }}}}" for number in range(300)), "more than 200 variables"),
        ("{{ 1 }}" + "x" * 65_536, "it is longer than 65,536 characters"),
    ],
)
def test_wrong_syntax_is_found_at_load(template: str, reason: str) -> None:
    """A syntax error is an error of the rule, with Go's message and the line."""
    with pytest.raises(TemplateError) as error:
        Template.parse("A", template)

    assert reason in str(error.value)


_WORDS = (
    "{{ }} {{- -}} if else end range with define template block break continue nil true $x := = | ( ) . .Labels $labels"
    " $value .Value `x` \"y\" 'c' 1 -2.5 1e3 0x1f humanize printf `%d%v` query `p` first index len eq and or not ,"
    " slice args title reReplaceAll toTime toDuration .Format .Round .Add (toTime 1) sortByLabel print {{end}} {{else}}"
    " text ä /* */"
)
_PIECES = st.sampled_from([*_WORDS.split(), "\n"])


@settings(deadline=None)
@given(st.lists(_PIECES, max_size=25), st.floats())
def test_a_template_of_any_pieces_is_refused_or_expands(pieces: list[str], value: float) -> None:
    """Random template pieces: parsing raises TemplateError only, and expanding never raises."""
    text = "{{" + " ".join(pieces) + "}}"
    try:
        Template.parse("A", text)
    except TemplateError:
        return

    assert isinstance(_expand(text, value), str)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_refused_or_expands(text: str) -> None:
    """Arbitrary text within an action and around it raises TemplateError or expands."""
    for template in (text, "{{" + text + "}}", "{{ print `" + text + "` }}"):
        try:
            Template.parse("A", template)
        except TemplateError:
            continue

        assert isinstance(_expand(template), str)
