"""Annotation templates expand here as in Prometheus: `promtool test rules` compares them for equality."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from rules.templates.template import Scope, Template
from tests import processes

pytestmark = pytest.mark.deep

LABELS = {"__name__": "m", "i": "1", "host": "db1.example.com:9100", "path": "/a b?c=<d>&e='f'", "empty_like": "-"}
NUMBERS: tuple[str, ...] = (
    "0",
    "1",
    "21",
    "-3.5",
    "0.5",
    "0.0001",
    "0.00001234",
    "100000",
    "999999.5",
    "1000000",
    "1234567",
    "123456.789",
    "1e21",
    "-1.5e300",
    "NaN",
    "+Inf",
    "-Inf",
)
OF_A_NUMBER = (
    "{{ $value }}",
    "{{ humanize $value }}",
    "{{ humanize1024 $value }}",
    "{{ humanizeDuration $value }}",
    "{{ humanizePercentage $value }}",
    "{{ $value | printf `%.2f|%8.3f|%-8.1f|%+g|%e|%d|%s|%v|%08.2f|%x` }}",
    "{{ if $value }}yes{{ else }}no{{ end }}",
    "{{ gt $value 1.0 }} {{ lt $value 1.0 }} {{ eq $value 21.0 }} {{ ge $value 1.0 }} {{ le $value 1.0 }}",
)
OTHERS = (
    "plain",
    "{{ 1 | }}",
    "{{ $labels.i }}{{ .Labels.host }}{{ $labels.nothing }}|",
    "{{ $labels }}",
    "{{ . }}",
    "{{ $externalLabels.site }} {{ $externalLabels }} {{ $externalURL }}",
    "{{ humanizeTimestamp 0.5 }} {{ humanizeTimestamp 1435065584.128 }} {{ humanizeTimestamp -1.5 }}",
    "{{ humanize `123456` }} {{ humanizeDuration `90061` }} {{ humanize 1000 }}",
    "{{ humanize `x` }}",
    "{{ humanize true }}",
    "{{ humanize nil }}",
    "{{ title `hello wORLD` }} {{ toUpper `aß` }} {{ toLower `ÄB` }} {{ title `node_high-load` }}",
    "{{ reReplaceAll `a(.)` `$1x` `abac` }}|{{ reReplaceAll `a(.)` `${1}x` `abac` }}",
    "{{ reReplaceAll `b*` `-` `abbc` }}|{{ reReplaceAll `` `-` `äb` }}|{{ reReplaceAll `^` `-` `a` }}",
    "{{ reReplaceAll `(.*):.*` `$1` $labels.host }}|{{ reReplaceAll `(?P<n>\\d)` `<$n$$>` `a1b2` }}",
    "{{ match `^db` $labels.host }} {{ match `x` $labels.host }}",
    "{{ graphLink `up{a='b'}` }} {{ tableLink `sum(x) + 1` }}",
    "{{ stripPort $labels.host }} {{ stripDomain $labels.host }} {{ stripDomain `10.0.0.1:80` }}",
    "{{ stripPort `[::1]:80` }}",
    "{{ stripDomain `[::1]:80` }} {{ stripPort `a:b:c` }} {{ stripDomain `plain` }}",
    "{{ parseDuration `1h2m10ms` }}",
    "{{ parseDuration `1.5h` }}",
    '{{ safeHtml `<b>` }} {{ html `<b>\'"&` }} {{ js `it\'s <"x">=\\` }} {{ urlquery `a b/c?&ä` }}',
    "{{ with query `m` }}{{ . | first | value }} {{ . | first | label `i` }}{{ end }}",
    "{{ range query `m` }}{{ .Labels.i }}={{ .Value }};{{ end }}",
    "{{ range $n, $s := query `sort(p)` }}{{ $n }}:{{ $s.Labels.k }}:{{ $s.Value }} {{ else }}none{{ end }}",
    "{{ range query `nothing` }}x{{ else }}none{{ end }}",
    "{{ range sortByLabel `k` (query `p`) }}{{ .Labels.k }}{{ end }}",
    "{{ range query `sort(p)` }}{{ if eq .Labels.k `b` }}{{ continue }}{{ end }}{{ .Labels.k }}{{ end }}",
    "{{ range query `sort(p)` }}{{ if eq .Labels.k `b` }}{{ break }}{{ end }}{{ .Labels.k }}{{ end }}",
    "{{ range $k, $v := $labels }}{{ $k }}={{ $v }},{{ end }}",
    "{{ first (query `nothing`) }}",
    "{{ (query `m` | first).Labels.i }} {{ (first (query `m`)).Value }} {{ strvalue (first (query `m`)) }}|",
    "{{ query `1 + 2` | first | value }}",
    "{{ define `x` }}[{{ . }}]{{ end }}{{ template `x` 3 }}{{ template `x` $labels.i }}{{ template `x` }}",
    "{{ block `y` $value }}<{{ . }}>{{ end }}",
    "{{ template `nope` }}",
    "{{ args 1 `b` 2.5 nil true }} {{ (args 1).arg0 }} {{ (args 1).arg7 }}",
    "{{- 1 -}} x {{- /* gone */ -}} y {{ 2 }}",
    "a\n{{- ` b` }}\n{{ `c` -}}\n d",
    "{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ $x }}{{ end }}{{ $x }}",
    "{{ if and 1 0 }}a{{ else if or 0 `x` }}b{{ else }}c{{ end }}",
    "{{ and 1 `` 2 }}|{{ or 0 `` }}|{{ not 0 }}|{{ or nil 1 }}",
    "{{ with $labels.nothing }}a{{ else }}b{{ end }}",
    "{{ len $labels }} {{ len `äb` }} {{ index $labels `i` }} {{ index `abc` 1 }} {{ slice `abcdef` 1 3 }}",
    "{{ index $labels `zz` }}|{{ index (args 1) `arg1` }}",
    "{{ index `abc` 5 }}",
    "{{ slice `abc` 3 2 }}",
    "{{ len 3 }}",
    "{{ eq 1 1.0 }}",
    "{{ eq $labels.i `2` `1` }} {{ ne 1 2 }} {{ eq true false }} {{ lt `a` `b` }} {{ eq nil nil }}",
    "{{ gt $value 1 }}",
    "{{ lt true false }}",
    "{{ print 1 2 `a` `b` 3 4 nil }}|{{ println 1 `a` }}|{{ print }}",
    "{{ printf `%d %5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%q|%U` 1 2 3 -4 5 255 255 8 5 65 66 67 }}",
    '{{ printf `%s|%q|%10s|%-10s|%.2s|%x|%v|%d` `a` `b"\n` `c` `d` `efg` `hi` `j` `k` }}',
    "{{ printf `%t %v %s` true false true }}",
    "{{ printf `%d %d` 1 }} {{ printf `x` 1 `y` }} {{ printf `%` }} {{ printf `%z` 1 }} {{ printf `100%%` }}",
    "{{ printf `%T %T %T %T` 1 1.5 `x` $labels }}",
    "{{ printf `%*d|%.*f` 5 42 2 3.14159 }}",
    "{{ printf `%[1]s %[1]q %[2]d %d|%[3]*.[2]*[1]f|%6.[1]s` `x` 2 }}",
    "{{ printf `%[2]s %[1]s` `a` `b` }} {{ printf `%[2]*[1]d|%[1]d` 1 5 }} {{ printf `%[2]d` 1 2 3 }}",
    "{{ printf `%[3]*.[2]*[1]f` 12.0 2 6 }} {{ printf `%.[2]*[1]f` 3.14159 2 }}",
    "{{ printf `%[0]d %[9]d %[x]d %[]d %[2]d` 1 2 }} {{ printf `%[2]2d %[1].2f %[1]` 1 2 }} {{ printf `%[1]%` 1 }}",
    "{{ printf `%s %[1]s %s` `a` `b` }} {{ printf `%[5]*d %d` 1 2 }}",
    "{{ printf 3 }}",
    "{{ 1e3 }} {{ 0x10 }} {{ 1_000 }} {{ 'a' }} {{ 1.5e-7 }} {{ 010 }} {{ -3 }} {{ .5 }}",
    '{{ `raw\\n` }}{{ "cooked\\t\\u00e4\\x41\\101" }}',
    "{{ .Nope }}",
    "{{ $labels.i.j }}",
    "{{ $value.Foo }}",
    "{{ $labels.i | humanize | printf `%s!` }}",
    "{{ `abc` | label `x` }}",
    "{{ humanize }}",
    "{{ humanize 1 2 }}",
    "{{ title 3 }}",
    "{{ title nil }}",
    "{{ nil }}",
    "{{ $labels.i 3 }}",
    "{{ $value 3 }}",
    "{{ 3 4 }}",
    "{{ range 3.5 }}x{{ end }}",
    "{{ range `abc` }}x{{ end }}",
    "{{ $x := 3 }}\n\n é {{ $x.foo }}",
    "{{ true }} {{ (1) }} {{ (print `a` | print `b`) }}",
    "{{ with $x := 5 }}{{ $x }}{{ . }}{{ end }}",
    "{{ define `a` }}{{ $ }}{{ end }}{{ with 7 }}{{ template `a` . }}{{ $.Value }}{{ end }}",
)
FIELDS = "Year Month Day Hour Minute Second Nanosecond Weekday YearDay Unix UnixMilli UnixMicro UnixNano IsZero IsDST"
LAYOUTS = (
    "2006-01-02T15:04:05Z07:00",
    "Mon, 02 Jan 2006 15:04:05 MST",
    "Monday January _2 1 2 06 002 __2 _2006",
    "3:4:5 03:04:05 PM pm 15h",
    "05.000 05.999 05,000 05.000000000 05.9 05.00x 05.0001 .999x",
    "-0700 -07:00 -07 -070000 -07:00:00 Z0700 Z07:00 Z07 Z070000 Z07:00:00",
    "Janet Monte Jan. Mon. month 2007 20066 0 7 16 011 äJan",
    "",
)
TIMES = (
    *(f"{{{{ (toTime {at}).{name} }}}}" for name in FIELDS.split() for at in ("1435065584.128", "-86400.5")),
    *(
        f"{{{{ range query `sort(p)` }}}}{{{{ ((.Value | toTime).AddDate 44 7 13).Format `{layout}` }}}}{{{{ end }}}}"
        for layout in LAYOUTS
    ),
    *(
        f"{{{{ (toTime 1709214305.25).Format `{layout}` }}}} {{{{ (toTime -1).Format `{layout}` }}}}"
        for layout in LAYOUTS
    ),
    "{{ `2006` | (toTime 0).Format }} {{ (toTime 0).Format (print `15` `:04`) }}",
    "{{ (toTime 86400).Month }} {{ printf `%d %s %v %q %T` (toTime 0).Month (toTime 0).Month (toTime 0).Weekday 1 2 }}",
    "{{ eq (toTime 0).Month 1 }} {{ (toTime 0).Month.String }}",
    "{{ (toTime 0).Add ((toTime 1.5).Sub (toTime 0)) }} {{ (toTime 0).Add 1500 }} {{ ((toTime 0).Add 1500).UnixNano }}",
    "{{ (toTime 0).Add 1.5 }}",
    "{{ (toTime 0).Add `x` }}",
    "{{ (toTime 0).Add nil }}",
    "{{ (toTime 0).Add $labels.i }}",
    "{{ $x := 5 }}{{ (toTime 0).Add $x }}",
    "{{ (toTime 0).Add }}",
    "{{ (toTime 0).Year 3 }}",
    "{{ 3 | (toTime 0).Year }}",
    "{{ (toTime 0).Format 3 }}",
    "{{ (toTime 0).Before 3 }}",
    "{{ (toTime 3).Sub (toTime 1.25) }} {{ ((toTime 3).Sub (toTime 1.25)).Milliseconds }} {{ (toTime 3).Sub }}",
    "{{ (toTime 3).After (toTime 1) }} {{ (toTime 3).Before (toTime 1) }} {{ (toTime 3).Equal (toTime 3) }}",
    "{{ (toTime 1709214305).AddDate 1 -1 1 }} {{ (toTime 1709214305).AddDate 0 12 0 }} {{ (toTime 0).AddDate 0 0 -1 }}",
    "{{ (toTime 1706659200).AddDate 0 1 0 }} {{ (toTime 0).AddDate 1 2 }}",
    "{{ (toTime 0).AddDate 1 2 3.5 }}",
    "{{ (toTime 0).AddDate 1 2 1e1 }}",
    *(
        f"{{{{ ({value}).{name} {step} }}}}"
        for value in ("(toTime 5415.75).Sub (toTime 0)", "(toTime 0).Sub (toTime 90)", "toTime 1435065584.5")
        for name in ("Round", "Truncate")
        for step in ("1000000000", "3600000000000", "500000000", "7", "7000000000", "-1", "0", "604800000000000")
    ),
    "{{ (toTime 1435065584.128).UTC.UTC.Truncate 1000000000 }} {{ ((toTime 5).UTC).Unix }}",
    "{{ $t := toTime 1709214305 }}{{ $t.Year }}-{{ $t.YearDay }} {{ $t.Format `Jan` }} {{ with $t }}{{ .Hour }}{{end}}",
    *(
        f"{{{{ ((toTime {at}).Sub (toTime 0)).{name} }}}}"
        for at in ("5415.75", "-0.001", "0")
        for name in ("Hours", "Minutes", "Seconds", "Milliseconds", "Microseconds", "Nanoseconds", "String", "Abs")
    ),
    "{{ $d := (toTime 90).Sub (toTime 0) }}{{ gt $d 5 }} {{ eq $d $d }} {{ ne $d 90000000000 }} {{ if $d }}a{{ end }}",
    "{{ if (toTime 0).Sub (toTime 0) }}a{{ else }}b{{ end }} {{ le ((toTime 0).Sub (toTime 0)) 0 }}",
    "{{ $t := toTime 0 }}{{ $t.Foo }}",
    "{{ $t := toTime 0 }}{{ $t.UTC.Foo }}",
    "{{ printf `%v %s %T` (toTime 0) (toTime 0) (toTime 0) }} {{ printf `%T` (toTime 0).UTC }}",
    "{{ printf `%v %s %T` ((toTime 1).Sub (toTime 0)) ((toTime 1).Sub (toTime 0)) ((toTime 1).Sub (toTime 0)) }}",
)
WRONG = (
    "{{ nofunction 1 }}",
    "{{ $nope }}",
    "{{ if }}{{ end }}",
    "{{ if 1 }}",
    "{{ end }}",
    "{{ else }}",
    "{{ 1 | 2 }}",
    "{{ break }}",
    "{{ (1 }}",
    "{{ 1) }}",
    "{{ `a }}",
    '{{ "a }}',
    "{{ 1a }}",
    "{{ $labels",
    "{{ /* x }}",
    "{{ }}",
    "{{ nil.x }}",
    "{{ range $a, $b, $c := . }}{{ end }}",
    "{{ define `x` }}",
    "{{ template }}",
    "{{ & }}",
    "{{ define `x` }}{{ $labels }}{{ end }}",
    "{{ if 1 }}{{ else }}{{ else }}{{ end }}",
    "{{ tmpl `a` . }}",
)


@pytest.fixture(scope="module")
def promtool() -> str:
    """The real promtool; where it is missing the test is skipped, or fails where peers are required."""
    return processes.require_program("promtool")


def _ask(text: str) -> list[tuple[tuple[tuple[str, str], ...], float]]:
    samples: dict[str, list[tuple[tuple[tuple[str, str], ...], float]]] = {
        "m": [(tuple(LABELS.items()), 1234567.0)],
        "nothing": [],
        "p": [((("__name__", "p"), ("k", name)), value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))],
        "sort(p)": [((("__name__", "p"), ("k", name)), value) for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))],
        "1 + 2": [((), 3.0)],
    }
    return samples[text]


def _expand(template: str, number: str) -> str:
    value = float(number)
    scope = Scope(LABELS, value, {"site": "lab"}, "http://localhost:9090/prom", 0, _ask)
    return Template.parse("T", template).expand(scope)


def _series(name: str, labels: dict[str, str], value: str) -> dict[str, str]:
    pairs = ",".join(f'{key}="{text}"' for key, text in labels.items() if key != "__name__")
    return {"series": f"{name}{{{pairs}}}", "values": value}


def _test(template: str, number: str) -> dict[str, object]:
    inputs = [_series("m", LABELS, number.replace("+Inf", "Inf"))]
    inputs += [_series("p", {"k": name}, value) for name, value in (("a", "1"), ("b", "2"), ("c", "3"))]
    expanded = _expand(template, number)
    alert = {"exp_labels": {k: v for k, v in LABELS.items() if k != "__name__"}, "exp_annotations": {"a": expanded}}
    return {
        "input_series": inputs,
        "external_labels": {"site": "lab"},
        "external_url": "http://localhost:9090/prom",
        "alert_rule_test": [{"eval_time": "0m", "alertname": "T", "exp_alerts": [alert]}],
    }


def _promtool(promtool: str, folder: Path, template: str, numbers: tuple[str, ...]) -> str:
    rule = {"alert": "T", "expr": "m", "annotations": {"a": template}}
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}, allow_unicode=True))
    tests = [_test(template, number) for number in numbers]
    (folder / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}, allow_unicode=True))
    done = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=folder, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("template", OF_A_NUMBER)
def test_numbers_are_shown_alike(promtool: str, tmp_path: Path, template: str) -> None:
    """Every number in every format reads as Prometheus writes it."""
    defined = NUMBERS
    if "humanizeDuration" in template:  # Go converts what overflows an int64 to whatever the processor makes of it
        defined = tuple(number for number in NUMBERS if not math.isfinite(float(number)) or abs(float(number)) < 2**63)

    assert _promtool(promtool, tmp_path, template, defined) == ""


@pytest.mark.parametrize("template", OTHERS)
def test_templates_expand_alike(promtool: str, tmp_path: Path, template: str) -> None:
    """A template gives the same text, error texts with their place included."""
    assert _promtool(promtool, tmp_path, template, ("1234567",)) == ""


@pytest.mark.parametrize("template", TIMES)
def test_times_and_durations_have_go_s_methods(promtool: str, tmp_path: Path, template: str) -> None:
    """Methods with their arguments, layouts of Format, and the errors of wrong arguments."""
    assert _promtool(promtool, tmp_path, template, ("1",)) == ""


@pytest.mark.parametrize("template", WRONG)
def test_wrong_templates_are_refused_alike(promtool: str, tmp_path: Path, template: str) -> None:
    """What `promtool check rules` refuses at load is refused here, with the same reason."""
    rule = {"alert": "T", "expr": "m", "annotations": {"a": template}}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [rule]}]}))
    done = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True)
    with pytest.raises(Exception, match="error parsing template") as refused:
        Template.parse("T", template)

    assert done.returncode != 0
    reason = re.sub(r"^.*?template: __alert_T:\d+: ", "", str(refused.value))
    assert reason in done.stdout + done.stderr
