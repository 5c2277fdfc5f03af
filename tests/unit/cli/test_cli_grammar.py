"""Wrong command lines, completion, and the reference that is generated from the commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oakestra.cli import COMMANDS, main, options, parser
from oakestra.cli.grammar import Grammar, completion, grammar, reference
from oakestra.cli.grammar.completion import suggest

REPOSITORY = Path(__file__).parents[3]
WHOLE = grammar(parser())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("wroker", "'wroker' is no command of `oak`; did you mean 'worker'? `oak --help` lists them"),
        (
            "service lsx",
            "'lsx' is no action of `oak service`; did you mean 'ls'? `oak service --help` lists them",
        ),
        (
            "service scale web",
            "the following arguments are required: COUNT; `oak service scale --help` explains",
        ),
        ("service scale web -1", "'-1' is no count; write a whole number, 0 or more"),
        ("service scale web two", "'two' is no count; write a whole number, 0 or more"),
        ("service deploy web --wait --timeout soon", "'soon' is no length of time; write it like 90s or 5m"),
        ("service ls --outp=json", "unrecognized arguments: --outp=json"),
        ("service ls -o xml", "'xml' is no format of `oak service ls`"),
    ],
)
def test_a_wrong_line_fails_with_1_and_says_what_is_right(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("oak: ")
    assert said in err


@pytest.mark.parametrize("line", ["", "service", "worker image"])
def test_half_a_line_shows_how_it_may_go_on(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(" ".join(["usage: oak", *line.split()]))


@pytest.mark.parametrize(("text", "length_s"), [("5", 5), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("0", 0)])
def test_lengths_of_time(text: str, length_s: float) -> None:
    assert options.seconds(text) == length_s


@pytest.mark.parametrize("command", list(WHOLE.walk()), ids=lambda command: "-".join(command.words))
def test_every_command_and_option_says_what_it_is_for(command: Grammar) -> None:
    assert command.about
    for option in command.options:
        assert option.about, option.names


def test_hidden_commands_are_in_nobodys_way() -> None:
    shown = {action.words[-1] for action in WHOLE.actions}
    assert {name for name, command in COMMANDS.items() if command.hidden}.isdisjoint(shown)
    assert {"app", "service", "instance", "explain", "login"} <= shown


def test_the_reference_is_what_the_commands_say() -> None:
    page = REPOSITORY / "docs" / "reference" / "cli.md"
    assert page.read_text() == reference.reference(), (
        "the commands have changed; write the page again: python -m oakestra.cli.grammar.reference > docs/reference/cli.md"
    )


def words(line: str) -> set[str]:
    """What may follow a line, of which the last word may be unfinished."""
    *before, current = line.split(" ")
    suggestion = suggest(grammar(parser(before)), before, current)
    return {word for word, _ in suggestion.words} | ({suggestion.kind} if suggestion.kind else set())


def test_what_may_come_next() -> None:
    assert {"app", "service", "worker"} <= words("")
    assert "complete" not in words("")
    assert {"ls", "deploy", "logs"} <= words("service ")
    assert {"ls", "image"} <= words("node "), "an alias has what its command has"
    assert words("app create ") == {"FILE"}
    assert words("service deploy ") == words("service deploy web ") == {"SERVICE"}
    assert words("service inspect web ") == set()
    assert words("service ls -o ") == {"table", "wide", "json", "yaml", "FORMAT"}
    assert words("service ls -o json ") == {"APP"}
    assert "--wait" in words("service deploy -")
    assert "--wait" not in words("service deploy --wait -")
    assert words("worker ls --cluster ") == {"CLUSTER"}
    assert words("service scale web 3 ") == set()
    assert words("completion ") == {"bash", "fish", "zsh", "SHELL"}


def test_the_words_are_printed_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complete", "--", "service", "un"]) == 0
    assert capsys.readouterr().out == "undeploy\tremove all instances of services, or single ones\n"
    assert main(["complete", "--", "worker", "image", "load", "/tm"]) == 0
    assert capsys.readouterr().out == f"{completion.FILES}\n"
    assert main(["complete", "--", "service", "deploy", "--wait", "--ti"]) == 0
    assert capsys.readouterr().out.startswith("--timeout\t")


def shell(name: str, script: str, tmp_path: Path) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"
    done = subprocess.run(
        [program], input=script, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True,
        env={"PATH": paths, "HOME": str(tmp_path), "TERM": "dumb"},
    )  # fmt: skip
    return done.stdout


def test_bash_completes(tmp_path: Path) -> None:
    script = completion.SCRIPTS["bash"] + (
        'complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _oak 2>/dev/null; echo "${COMPREPLY[*]}"; }\n'
        "complete_line oak service un\ncomplete_line oak app cr\ncomplete_line oak service ls -o j\n"
        "touch sla.json\ncomplete_line oak app create sl\ncomplete_line oak app create ''\n"
    )
    assert shell("bash", script, tmp_path).splitlines() == [
        "undeploy",
        "create",
        "json",
        "sla.json",
        "sla.json",
    ]


def test_fish_completes(tmp_path: Path) -> None:
    script = (
        completion.SCRIPTS["fish"]
        + "complete -C 'oak service un'\ntouch sla.json\ncomplete -C 'oak app create sl'\n"
    )
    assert shell("fish", script, tmp_path).splitlines() == [
        "undeploy\tremove all instances of services, or single ones",
        "sla.json",
    ]


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    script = "autoload -U compinit; compinit -u\n" + completion.SCRIPTS["zsh"] + "print ${_comps[oak]}\n"
    assert shell("zsh", script, tmp_path).splitlines() == ["_oak"]
