"""Tests the commands of the pages: valid for the shell, and with existing subcommands and options of `steadytok`."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess

import click
import pytest

from agent.__main__ import main
from agent.sampling.plugins import load_collectors
from tests.docs.commands import EVERY, NOT_RUN, Command
from tests.docs.pages import HOUSE, PAGES

OURS = [command for command in EVERY if re.match(r"steadytok\b", command.text)]
MAKE = [command for command in EVERY if command.text.startswith("make ")]


def test_there_are_commands() -> None:
    """The pages have commands, and each pattern of NOT_RUN matches some of them."""

    assert len(OURS) > 40
    assert all(any(re.search(pattern, command.text) for command in EVERY) for pattern in NOT_RUN)


@pytest.mark.parametrize("command", EVERY, ids=str)
def test_the_shell_takes_it(command: Command) -> None:
    """bash parses the command: quotes and parentheses are closed."""
    completed = subprocess.run(["bash", "-n", "-c", command.text], capture_output=True, text=True, check=False)

    assert completed.stderr == ""


@pytest.mark.parametrize("command", OURS, ids=str)
def test_it_is_a_command_of_ours(command: Command) -> None:
    """Each word is an existing command or option, and no argument is missing."""
    for part in re.split(r"[|;&]+", command.text):
        words = shlex.split(re.sub(r"\[(\w+)\]", r"\1", part))
        if words and words[0] == "steadytok":
            _check_arguments(main, words[1:])


def _check_arguments(command: click.Command, words: list[str]) -> None:
    context = click.Context(command)
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(context, words[0])
        if inner is not None:
            return _check_arguments(inner, words[1:])
        assert command.invoke_without_command, f"no command {words[0]}"
    command.make_parser(context).parse_args(list(words))
    required = [each for each in command.params if isinstance(each, click.Argument) and each.required]
    positional_words = [word for word in words if not word.startswith("-")]

    assert len(positional_words) >= len(required)
    return None


def test_modprobe_is_told_of_several_modules() -> None:
    """Without -a modprobe silently takes the second word for an option of the first module."""
    hints = [inspect.getsource(module) for module in load_collectors().values()]
    texts = [*hints, *(page.read_text(encoding="utf-8") for page in PAGES)]
    several = [match for text in texts for match in re.findall(r"modprobe((?: -\w)?) (\w+\s+\w*[_\d]\w*)", text)]

    assert (" -a", "ipmi_si ipmi_devintf") in several
    assert {option for option, _ in several} == {" -a"}


@pytest.mark.parametrize("command", MAKE, ids=str)
def test_make_has_the_target(command: Command) -> None:
    """`make -n` accepts the target."""
    completed = subprocess.run(
        ["make", "-n", *command.text.split()[1:]], cwd=HOUSE, capture_output=True, text=True, check=False
    )

    assert completed.returncode == 0, completed.stderr
