"""
Hostile expressions and rule files: each ends with an error message, in bounded time and memory.

They run in a process of their own, whose memory and processor time are limited.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.deep  # each starts a process with limits of its own, and some take seconds

HOUSE = Path(__file__).parents[2]
MEMORY = 1 << 30  # of address space; NumPy and the parser take a third of it before the first query
SECONDS = 60

_ASK = """
import json, sys
from collectors import Sample, counter
from rules import promql
from rules.history.history import History

start = 1_700_000_000_000
held = History(3_600_000)
metric = counter("work_total", "Work.")
labels = [(("node", str(number)),) for number in range(400)]
for row in range(600):
    held.record("host", start + row * 1000, [Sample(metric, each, float(row)) for each in labels])
now = start + 600_000

def answer(text):
    try:
        query = promql.compile(text, subquery_step_ms=1000)
        instant = len(query.evaluate_at(held, now))
        return [None, instant, len(query.evaluate_range(held, start, now, 1000))]
    except promql.PromqlError as error:
        return [str(error), None, None]

answers = [answer(text) for text in json.load(sys.stdin)]
alive = promql.compile("sum(work_total)").evaluate_at(held, now).values.tolist()
json.dump({"answers": answers, "alive": alive}, sys.stdout)
"""

_LOAD = """
import json, sys
from pathlib import Path
from rules.rulefile import RuleFileError, load_rules

def answer(path):
    try:
        return [None, len(load_rules([Path(path)]).groups)]
    except RuleFileError as error:
        return [" ".join(error.messages), None]

json.dump([answer(path) for path in json.load(sys.stdin)], sys.stdout)
"""

_EXPAND = """
import json, sys
from pathlib import Path
from collectors import Sample, counter
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

path, series = json.load(sys.stdin)
held = History(3_600_000)
metric = counter("work_total", "Work.")
labels = [(("node", str(number)),) for number in range(series)]
for second in range(0, 600, 10):
    held.record("host", second * 1000, [Sample(metric, each, float(second)) for each in labels])
rules = RuleEvaluator(load_rules([Path(path)]), interval_ms=1000, external_labels={}, external_url="")
rules.evaluate(held, 600_000)
health = [each.error for each in rules.health if each.error]
json.dump([health, [dict(alert.annotations)["text"] for alert in rules.list_alerts()]], sys.stdout)
"""

_RELOAD = """
import json, sys
from pathlib import Path
from rules.evaluator import RuleEvaluator
from rules.rulefile import load_rules

first, second = (load_rules([Path(path)]) for path in json.load(sys.stdin))
after = RuleEvaluator(first, interval_ms=1000, external_labels={}, external_url="").replace_rules(second)
json.dump(len(set(after.list_sampling_groups())), sys.stdout)
"""


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


def run_limited(program: str, input_data: object) -> Any:
    """Returns the output of a program that runs within the limits; fails the test if it crashes or is killed."""
    completed = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(input_data),
        capture_output=True,
        text=True,
        timeout=2 * SECONDS,
        preexec_fn=_limit_resources,
        cwd=HOUSE,
        env={"OPENBLAS_NUM_THREADS": "1"},
    )

    assert completed.returncode == 0, f"exit status {completed.returncode}: {completed.stderr[-2000:]}"
    return json.loads(completed.stdout)


NESTED = {
    "beyond the largest float": "1" * 60_000,  # as to Go's strconv.ParseFloat
    "100 KB": "work_total + " * 8_000 + "1",
    "100 KB of label": 'work_total{node="' + "x" * 100_000 + '"}',
    "parentheses": "(" * 10_000 + "work_total" + ")" * 10_000,
    "open parentheses": "(" * 10_000,
    "brackets": "[" * 10_000,
    "functions": "abs(" * 10_000 + "work_total" + ")" * 10_000,
    "minus": "-" * 10_000 + "work_total",
    "powers": "2 ^ " * 10_000 + "2",
    "subqueries": "max_over_time(" * 300 + "work_total" + "[5m:1s])" * 300,
    "quotes that never close": 'work_total{node="' + '\\"' * 32_000,
    "escapes": 'work_total{node="' + "\\n" * 32_000 + '"}',
    "apostrophes": "'" * 65_001,
    "quoted commas": "label_join(work_total, 'a', 'b'" + ", 'node'" * 9_000 + ")",
    "underscores": "1_" * 30_000,
    "regular expression too large": 'work_total{node=~"((((a{100}){100}){100}){100})"}',
    "open group": 'work_total{node=~"' + "(" * 1_000 + '"}',
    "zeros": "work_total[0s]",
    "far away": "work_total @ 1e300",
    "no such time": "work_total offset 99999999999999y",
}

HEAVY = {
    "1 M steps of a subquery": "max_over_time(work_total[1000000s:1s])",
    "1 M steps deep": "sum_over_time(max_over_time(rate(work_total[5m])[12d:1s])[12d:1s])",
    "1 M samples in many windows": " + ".join(["sum(stddev_over_time(work_total[10m]))"] * 50),
    "wide subquery": 'max_over_time({__name__=~".+"}[100000s:1s])',
    "values that double": "label_replace(" * 40
    + 'label_replace(work_total, "a", "0123456789", "", "")'
    + ', "a", "$1$1", "a", "(.*)")' * 40,
    "values that grow a thousandfold": "label_replace(" * 3
    + 'label_replace(work_total, "a", "0123456789", "", "")'
    + (', "a", "' + "$1" * 1_000 + '", "a", "(.*)")') * 3,
    "long values joined": 'label_join(work_total, "a", "' + "x" * 16_000 + '"' + ', "node"' * 4_000 + ")",
    "long values copied": "label_replace(" * 160
    + "work_total"
    + "".join(f', "l{n}", "{"x" * 355}", "", "")' for n in range(160)),
    "many labels": "label_replace(" * 190
    + "work_total"
    + "".join(f', "l{n}", "$1", "node", "(.*)")' for n in range(190)),
    "label sets joined": " * on(node) ".join(["work_total"] * 190),
    "a copy at each level": " or ".join(["work_total{" + ",".join(f'l{n}="b"' for n in range(28)) + "}"] * 190),
    "a pattern at each level": " or ".join(['work_total{node=~"b"}'] * 190),
    "regular expressions": "work_total{" + ",".join(rf'node!~"\\pN{{150}}{n}"' for n in range(1_000)) + "}",
    "series from nothing": " or ".join(f'label_replace(work_total, "copy", "{n}", "", "")' for n in range(150)),
}

HARMLESS = {
    "comments": "#\n" * 32_000 + "work_total",
    "huge number": "1" * 300,
    "exponential elsewhere": 'work_total{node=~"(a+)+b"}',
    "exponential label": 'label_replace(work_total, "x", "$1", "node", "((a|aa|[0-9])*)*b?")',
    "years": "rate(work_total[100y])",
    "everything": 'count({__name__=~".+"})',
    "wide chain": " + ".join(["work_total"] * 50),
    "many labels": "sum by (" + ", ".join(f"l{n}" for n in range(5_000)) + ") (work_total)",
    "many matchers": "work_total{" + ",".join(f'l{n}!="x"' for n in range(3_000)) + "}",
}


def test_monstrous_expressions_are_refused_in_a_sentence() -> None:
    """Expressions of any depth, length and nonsense are refused before anything is evaluated."""
    result = run_limited(_ASK, list(NESTED.values()))
    refused = {name: error for name, (error, _, _) in zip(NESTED, result["answers"], strict=True)}

    assert [name for name, error in refused.items() if error is None] == []
    assert [name for name, error in refused.items() if len(str(error)) > 70_000] == []
    assert result["alive"] == [400 * 599.0]


def test_expressions_that_would_take_too_much_are_refused() -> None:
    """An expression that would hold or visit too many cells is refused, over a range of time if not at once."""
    result = run_limited(_ASK, list(HEAVY.values()))
    refused = {name: str(error) for name, (error, _, _) in zip(HEAVY, result["answers"], strict=True)}

    assert [name for name, error in refused.items() if "use " not in error] == []
    assert result["alive"] == [400 * 599.0]


def test_what_only_looks_hostile_is_answered() -> None:
    """Regular expressions take linear time, and long or far-reaching expressions are evaluated normally."""
    result = run_limited(_ASK, list(HARMLESS.values()))

    assert [(name, answer[0]) for name, answer in zip(HARMLESS, result["answers"], strict=True) if answer[0]] == []


def _format_rule_file(expr: str) -> str:
    return f"groups:\n- name: g\n  rules:\n  - record: r\n    expr: {json.dumps(expr)}\n"


def _nest_aliases() -> str:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    return "a0: &a0 [lol]\n" + "\n".join(levels) + "\ngroups: *a9\n"


def _nest_merges() -> str:
    levels = [f"- &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}" for n in range(1, 10)]
    return "groups:\n- &m0 {name: g}\n" + "\n".join(levels) + "\n"


def _repeat_rules(groups: int, rules: int) -> str:
    """Writes rules once and uses their alias in each group: few bytes, but groups x rules to compile."""
    first = "- name: g0\n  rules: &rules\n" + "  - {record: r, expr: '1'}\n" * rules
    return f"groups:\n{first}" + "".join(f"- {{name: g{number}, rules: *rules}}\n" for number in range(1, groups))


def _repeat_labels(count: int) -> str:
    """Does the same with labels: each rule has all of them."""
    labels = ", ".join(f"l{number}: v" for number in range(count))
    rules = "  - {record: r, expr: '1', labels: *labels}\n" * count
    return f"groups:\n- name: g\n  rules:\n  - {{record: r, expr: '1', labels: &labels {{{labels}}}}}\n{rules}"


def _repeat_expressions(count: int) -> str:
    """Does the same with an expression that takes long to parse."""
    rules = "  - {record: r, expr: *long}\n" * count
    long = 'm{a="' + "b" * 60_000 + '"}'
    return f"groups:\n- name: g\n  rules:\n  - {{record: r, expr: &long '{long}'}}\n{rules}"


RULE_FILES = {
    "100 KB expression": _format_rule_file("work_total + " * 8_000 + "1"),
    "parentheses": _format_rule_file("(" * 10_000 + "1" + ")" * 10_000),
    "a billion laughs": _nest_aliases(),
    "a billion merges": _nest_merges(),
    "an alias of itself": "groups: &a\n- name: g\n  rules: *a\n",
    "deep lists": "groups: " + "[" * 10_000 + "]" * 10_000 + "\n",
    "deep mappings": "groups: " + "{a: " * 10_000 + "}" * 10_000 + "\n",
    "a key twice": "groups:\n- name: g\n  name: h\n  rules: []\n",
    "a group twice": "groups:\n- name: g\n- name: g\n",
    "a label twice": _format_rule_file("1") + "    labels: {a: b, a: c}\n",
    "a python object": "groups: !!python/object/apply:os.system ['true']\n",
    "NUL": "groups:\n- name: \0\n",
    "deep templates": (
        "groups:\n- name: g\n  rules:\n  - alert: A\n    expr: '1'\n    annotations: {a: '"
        + "{{ if true }}" * 5_000
        + "'}\n"
    ),
}


def test_hostile_rule_files_are_refused(tmp_path: Path) -> None:
    """Each file has an error of its own, and the next file is still read."""
    paths = []
    for number, text in enumerate([*RULE_FILES.values(), _format_rule_file("sum(work_total)")]):
        paths.append(tmp_path / f"{number}.yml")
        paths[-1].write_text(text)
    *refused, (error, groups) = run_limited(_LOAD, [str(path) for path in paths])

    assert (error, groups) == (None, 1)
    assert [name for name, answer in zip(RULE_FILES, refused, strict=True) if answer[0] is None] == []


def test_aliases_count_as_what_they_stand_for(tmp_path: Path) -> None:
    """A document whose aliases expand to too much is refused before any rule is compiled; a few aliases are fine."""
    bombs = [
        _repeat_rules(200, 200),
        _repeat_labels(5_000),
        _repeat_expressions(1_000),
        _repeat_rules(2, 3),
        _repeat_labels(10),
        _repeat_expressions(10),
    ]
    paths = [tmp_path / f"{number}.yml" for number in range(len(bombs))]
    for path, text in zip(paths, bombs, strict=True):
        path.write_text(text)
    (rules, _), (elements, _), (characters, _), *well = run_limited(_LOAD, [str(path) for path in paths])

    assert rules == f"{paths[0]}: 2:1: 40,000 rules, and a file may have 20,000; split it"
    assert "more than 500000 elements, with aliases expanded" in elements
    assert "more than 16777216 characters, with aliases expanded" in characters
    assert well == [[None, 2], [None, 1], [None, 1]]


def test_rules_that_build_on_each_other_without_end_are_refused(tmp_path: Path) -> None:
    """A long chain is accepted, a cycle of rules too; a chain of 20,000 rules is refused."""
    paths = [tmp_path / f"{number}.yml" for number in range(3)]
    paths[0].write_text(_chain_rules(20_000))
    paths[1].write_text(_chain_rules(300))
    paths[2].write_text(_chain_rules(300) + "  - {record: r0, expr: r300}\n")
    (error, _), *well = run_limited(_LOAD, [str(path) for path in paths])

    assert error.startswith(f"{paths[0]}:636: r633 builds on too many rules: recording rules may build on each other")
    assert well == [[None, 1], [None, 1]]


def _chain_rules(length: int) -> str:
    rules = "".join(f"  - {{record: r{number + 1}, expr: r{number}}}\n" for number in range(length))
    return f"groups:\n- name: g\n  rules:\n{rules}"


def test_a_reload_of_thousands_of_rules_compares_them_once(tmp_path: Path) -> None:
    """Old rules are looked up, not searched for; and rules of one name get unique sampling groups."""
    paths = [tmp_path / "first.yml", tmp_path / "second.yml"]
    for path in paths:
        path.write_text(
            _repeat_rules(1, 0) + "".join(f"  - {{record: {path.stem}, expr: m{n}}}\n" for n in range(6_000))
        )

    assert run_limited(_RELOAD, [str(path) for path in paths]) == 6_000


WORK = "exceeds its work limit"
TEMPLATES = {
    "{{ range 1000000000 }}{{ end }}": WORK,
    "{{ range 1000000000 }}{{ continue }}{{ end }}": WORK,
    "{{ $x := `ab` }}{{ range 22 }}{{ $x = print $x $x }}{{ end }}": WORK,
    "{{ $x := 1 }}{{ range 40 }}{{ $x = args $x $x }}{{ end }}{{ $x }}": "more than 1,048,576 characters",
    "{{ $x := printf `%1000000d` 1 }}{{ range 100000 }}{{ $y := toUpper $x }}{{ end }}": WORK,
    "{{ $x := printf `%1000000d` 1 }}{{ range 100000 }}{{ $y := title $x }}{{ end }}": WORK,
    "{{ $x := printf `%100000d` 1 }}{{ reReplaceAll `` $x $x }}": "more than 1,048,576 characters",
    "{{ $x := printf `%100000d` 1 }}{{ reReplaceAll `^` (reReplaceAll ` ` `$0` $x) $x }}": WORK,
    "{{ range $i := 100000 }}{{ $y := match (print `\\pN{150}` $i) `x` }}{{ end }}": WORK,
    "{{ printf `" + "%1000000d" * 100 + "`" + " 1" * 100 + " }}": "more than 1,048,576 characters",
    "{{ range 100000 }}{{ $y := and" + " 1" * 30_000 + " }}{{ end }}": WORK,
    "{{ range 100000 }}{{ $y := query `vector(1)` }}{{ end }}": WORK,
    "{{ $x := args }}{{ range 100000 }}{{ $x = args $x (query `work_total`) }}{{ end }}": WORK,
    "{{ range 9 }}{{ range 99 }}{{ $y := query `"
    "sum_over_time(max_over_time(work_total[9m:100ms])[9m:100ms])` }}{{ end }}{{ end }}": "would visit more than",
}


def _format_alerts(templates: list[str]) -> str:
    rules = [{"alert": "A", "expr": "work_total >= 0", "annotations": {"text": text}} for text in templates]
    return json.dumps({"groups": [{"name": "g", "rules": rules}]})


def test_hostile_templates_are_cut_short(tmp_path: Path) -> None:
    """Loops, strings, regular expressions and queries share one budget; the alert's text names the error."""
    file = tmp_path / "rules.yml"
    file.write_text(_format_alerts([*TEMPLATES, "node {{ $labels.node }}"]))
    health, (*cut, well) = run_limited(_EXPAND, [str(file), 1])

    assert (health, well) == ([], "node 0")
    assert [
        (text, output[-300:]) for text, output in zip(TEMPLATES, cut, strict=True) if TEMPLATES[text] not in output
    ] == []


def test_the_alerts_of_a_rule_share_what_their_templates_may_cost(tmp_path: Path) -> None:
    """A thousand alerts with a costly template share one budget; each of them still exists."""
    file = tmp_path / "rules.yml"
    file.write_text(_format_alerts(["{{ range 200000 }}{{ end }}done", "well"]))
    health, texts = run_limited(_EXPAND, [str(file), 1000])

    assert health == []
    assert 5 < texts.count("done") < 50
    assert sum("common work limit" in text for text in texts) + texts.count("done") == 1000
    assert texts.count("well") == 1000


@pytest.mark.parametrize("text", ["abs(" * 199 + "work_total" + ")" * 199, "-" * 199 + "work_total"])
def test_the_deepest_expression_allowed_is_answered(text: str) -> None:
    """An expression just below the limit of depth is evaluated, so the limit leaves enough stack."""
    result = run_limited(_ASK, [text])

    assert result["answers"] == [[None, 400, 400]]
