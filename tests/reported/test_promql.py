"""Rule files of users: what is refused names its place, what Prometheus 3 loads is loaded and evaluated as there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.commands import check
from agent.commands.rules import command
from collectors import Sample, gauge
from rules import promql
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.promql import PromqlError
from rules.rulefile import RuleFileError, load_rules
from rules.strict_yaml import Scalar, load_yaml

PICTURES = Path(__file__).parent / "pictures"
HOUR = 3_600_000
HOT, LIMIT = gauge("hot", "Heat."), gauge("limit", "Limit.")


def list_errors(picture: str) -> list[str]:
    path = PICTURES / picture / "rules.yml"
    with pytest.raises(RuleFileError) as error:
        load_rules([path])
    return [message.removeprefix(f"{path}: ") for message in error.value.messages]


def run_command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_every_bad_expression_of_a_file_has_its_place() -> None:
    """`promtool check rules` of Prometheus 2.42 names these lines, columns and reasons for these expressions."""
    faults = [message.partition("could not parse expression: ")[2] for message in list_errors("promql-places")]

    assert faults == [
        "3:1: parse error: unexpected end of input",
        '1:5: parse error: unexpected identifier "requests"',
        "1:16: parse error: unexpected <ignoring>",
        "1:32: parse error: unexpected <by>",
        '1:6: parse error: expected type range vector in call to function "rate", got instant vector',
    ]


def test_no_fault_hides_another() -> None:
    """An empty group name, a repeated key and a bad limit each leave the faults of the rules below to be named."""
    places = [message.split(": ")[0] for message in list_errors("promql-empty-group-name")]

    assert sorted(places, key=lambda position: [int(number) for number in position.split(":")]) == [
        "2:3",
        "4:26",
        "5:5",
        "5:19",
        "7:10",
        "8:3",
        "10:39",
    ]


def test_patterns_of_go_are_loaded_and_match() -> None:
    """Quoted text, octal escapes, empty flags and negated classes are RE2's, which Prometheus uses, and not Rust's."""
    history = History(HOUR)
    up = gauge("up", "1 if it is.")
    hosts = ("10.0.0.1:9100", "10x0.0.1:9100", "Abc", "a", "42", "b")
    history.record("g", 1000, [Sample(up, (("host", host),), 1.0) for host in hosts])
    matched = {
        rule.name: sorted(dict(labels).get("host", "") for labels, _ in rule.query.evaluate_at(history, 1000))
        for rule in load_rules([PICTURES / "promql-regexes/rules.yml"]).rules
    }

    assert matched["quoted"] == ["10.0.0.1:9100"]
    assert matched["octal"] == ["Abc"]
    assert matched["no_flag"] == ["a"]
    assert matched["no_letter"] == ["10.0.0.1:9100", "42"]
    assert matched["letter"] == ["Abc"]
    assert matched["ungreedy"] == ["a"]
    assert matched["none_empty"] == sorted(set(hosts) - {"b"})
    assert [
        dict(labels).get("port")
        for labels, _ in promql.compile(r'label_replace(up, "port", "$1", "host", "\\Q10.0.0.1\\E:(.*)")').evaluate_at(
            history, 1000
        )
    ].count("9100") == 1


@pytest.mark.parametrize("pattern", ["(?=a)", "a{1001}", r"\8", "(", "[z-a]", r"(a)\1", r"\C"])
def test_patterns_that_go_refuses_are_refused(pattern: str) -> None:
    """Look-around, back-references and repetitions beyond 1,000 are refused, with the place of their matcher."""
    with pytest.raises(PromqlError, match=r"^1:6: parse error: error parsing regexp"):
        promql.compile(f"1 + {{a=~`{pattern}`}}")


@pytest.mark.parametrize("pattern", [r"\QC:\C\E", r"\\C", r"\\\\C", r"[C]"])
def test_a_c_after_a_backslash_may_be_text(pattern: str) -> None:
    """Only the escape sequence is refused: not quoted text, and not the letter after a backslash that is text."""
    promql.compile(f"{{a=~`{pattern}`}}")


def test_names_may_be_any_utf8(tmp_path: Path) -> None:
    """Names of metrics, labels and annotations that Prometheus 3 takes are loaded, recorded, selected and expanded."""
    history = History(HOUR)
    requests = gauge("http.requests", "Requests.")
    labels = (("data centre", "1"), ("http.host", "a.example"))
    history.record("g", 1000, [Sample(requests, labels, 9.0), Sample(requests, (("http.host", "b"),), 1.0)])
    rules = RuleEvaluator(
        load_rules([PICTURES / "promql-names/rules.yml"]), interval_ms=1000, external_labels={}, external_url=""
    )
    rules.evaluate(history, 1000)
    (alert,) = rules.list_alerts()

    assert [health.error for health in rules.health] == ["", "", ""]
    assert history.get_value("rate.again", **dict(labels), **{"data-centre": "west"}) == 18.0
    assert dict(alert.labels)["ins-tance"] == "a.example"
    assert dict(alert.annotations)["was.ist"] == (
        "map[__name__:http.rate data centre:1 data-centre:west http.host:a.example]"
    )
    assert len(promql.compile('ALERTS{alertname="Größe","ins-tance"=~"a.+"}').evaluate_at(history, 1000)) == 1


def test_numbers_are_read_as_in_go() -> None:
    """Quotes make a limit a text, and a template's number must fit; hexadecimal and separated digits are numbers."""
    errors = list_errors("promql-numbers")

    assert [error.split(": ")[0] for error in errors] == ["3:10", "5:55", "6:49", "7:51"]
    assert 'the quotes make "5" a text' in errors[0]
    assert [error.rpartition("Alert")[2] and error.split(":1: ")[-1] for error in errors[1:]] == [
        'illegal number syntax: "1__0"',
        'illegal number syntax: "1e400"',
        'integer overflow: "18446744073709551616"',
    ]


@pytest.mark.parametrize(
    ("limit", "number"),
    [("0x10", 16), ("1_000", 1000), ("1e3", 1000), ("017", 15), ("0b11", 3), ("-0x1_0", -16), ("08", 8)],
)
def test_a_limit_may_have_any_notation_of_yaml(tmp_path: Path, limit: str, number: int) -> None:
    """`promtool check rules` takes each of these as a whole number."""
    path = tmp_path / "rules.yml"
    path.write_text(f"groups: [{{name: g, limit: {limit}}}]")

    assert load_rules([path]).groups[0].limit == number


@pytest.mark.parametrize(
    ("text", "quoted"), [("5", False), ("'5'", True), ('"5"', True), ("|\n  5", True), ("", False)]
)
def test_a_scalar_knows_its_quotes(text: str, quoted: bool) -> None:
    """Only quotes and block styles make a scalar a text: libyaml gives a plain one an empty style, and not none."""
    table = load_yaml(f"a: {text}\n".encode())
    assert isinstance(table, dict) or table is not None
    value = table["a"]  # type: ignore[index]  # a mapping

    assert isinstance(value, Scalar)
    assert value.quoted is quoted


def test_check_names_each_rule_that_looks_back_too_far(tmp_path: Path) -> None:
    """Of a file that comes whole, such as the node mixin, only rules beyond sample.keep fail; check names them."""
    path = PICTURES / "promql-long-ranges/disks.yml"
    (tmp_path / "steadytok.yml").write_text("sample: {keep: 6h}")
    refused = run_command("check", path)
    rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="")
    rules.evaluate(History(HOUR), 1000)

    assert refused.exit_code == 1
    assert refused.stderr.splitlines() == [health.error for health in rules.health if health.error]
    assert [(health.name, health.health) for health in rules.health] == [
        ("DiskFillsUp", "err"),
        ("DiskFull", "ok"),
        ("ClockDrifts", "err"),
    ]
    assert run_command("check", "--config", tmp_path / "steadytok.yml", path).exit_code == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("topk(NaN, nothing)", "Parameter value is NaN"),
        ("bottomk(1e20, nothing)", "overflows int64"),
        ("topk(-1e20, nothing)", "underflows int64"),
        ("hot > on(node) group_left(dimm) limit", "grouping labels must ensure unique matches"),
        ("hot > on(node) limit", "many-to-one matching must be explicit"),
    ],
)
def test_an_error_does_not_depend_on_the_values_of_the_moment(text: str, reason: str) -> None:
    """prometheus#17668: a match is ambiguous whatever a comparison leaves of it; a bad k is bad over nothing too."""
    history = History(HOUR)
    heats = [Sample(HOT, (("dimm", dimm), ("node", "0")), heat) for dimm, heat in (("a", 1.0), ("b", 9.0))]
    history.record("g", 1000, [*heats, Sample(LIMIT, (("node", "0"),), 5.0)])

    with pytest.raises(PromqlError, match=reason):
        promql.compile(text).evaluate_at(history, 1000)


def test_atan2_drops_the_name_like_every_arithmetic_operator() -> None:
    """prometheus#12595: the result is no longer the metric."""
    history = History(HOUR)
    history.record("g", 1000, [Sample(HOT, (("dimm", "a"),), 1.0)])

    for text in ("hot atan2 hot", "hot atan2 1", "1 atan2 hot"):
        assert [dict(labels) for labels, _ in promql.compile(text).evaluate_at(history, 1000)] == [{"dimm": "a"}]


def test_files_of_users_are_checked_and_tested() -> None:
    """As in files for vLLM and IPMI: an interval and a `for` of 0 s, labels of several lines, $labels as a whole."""
    folder = PICTURES / "rules-of-users"

    assert run_command("check", folder / "engines.yml").exit_code == 0
    assert run_command("test", folder / "tests.yml").exit_code == 0


def test_the_whole_check_names_long_rules_and_goes_on(tmp_path: Path) -> None:
    """`steadytok check` prints the same sentence, and then reads the collectors: the agent runs without that rule."""
    path = PICTURES / "promql-long-ranges/disks.yml"
    config = tmp_path / "steadytok.yml"
    config.write_text(f"rules: {{builtin: false, files: [{path}]}}\n")
    printed = CliRunner().invoke(check.command, ["--config", str(config), "--root", str(tmp_path)]).output.splitlines()
    (count,) = (line.split() for line in printed if line.startswith("rules"))

    assert count == ["rules", "3", "loaded"]
    assert sum("looks back" in line and "of sample.keep" in line for line in printed) == 2
    assert len(printed) > 10
