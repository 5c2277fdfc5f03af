"""`oak completion`: complete commands, options and names in bash, fish and zsh. The shells ask `oak` for the words."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from oakestra.cli import DONE, parser
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.grammar import Argument, Grammar, Option, grammar
from oakestra.model.errors import OakestraError

FILES = ":files"
"""Printed instead of words: the shell knows the files best."""
ANSWER_S = 2.0
"""Somebody waits for it with a finger on the key."""

SCRIPTS: Mapping[str, str] = {
    "bash": """\
_oak() {
    local IFS=$'\\n'
    COMPREPLY=($(oak complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
    if [[ ${COMPREPLY[0]} == ":files" ]]; then
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
        compopt -o filenames
    fi
}
complete -F _oak oak
""",
    "fish": """\
function __oak_words
    set -l words (oak complete -- (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
    if test "$words[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\\n' $words
    end
end
complete -c oak -f -a '(__oak_words)'
""",
    "zsh": """\
#compdef oak
_oak() {
    local -a lines
    lines=("${(@f)$(oak complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $lines[1] == ":files" ]]; then
        _files
    else
        lines=("${(@)lines/$'\\t'/:}")
        _describe oak lines
    fi
}
compdef _oak oak
""",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What may come next: words with what they are for, or a kind of names."""

    words: tuple[tuple[str, str], ...] = ()
    kind: str = ""
    """As help writes it: SERVICE, FILE, …"""


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the command that was typed."""
    if parser.get_default("command") == "complete":
        parser.add_argument("words", nargs=argparse.REMAINDER)
        parser.set_defaults(run=run_complete)
        return
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS), help="bash, fish or zsh")
    parser.epilog = (
        "Put into your shell's start-up file: for bash and zsh `source <(oak completion bash)` with your shell's name; "
        "for fish `oak completion fish | source`."
    )
    parser.set_defaults(run=run_completion)


def run_completion(args: argparse.Namespace) -> int:
    """Print a shell's script."""
    print(SCRIPTS[args.shell], end="")
    return DONE


def run_complete(args: argparse.Namespace) -> int:
    """Print what may stand where the last word is, a suggestion a line."""
    *before, current = args.words[1:] if args.words[:1] == ["--"] else args.words
    suggestion = suggest(grammar(parser(before)), before, current)
    if suggestion.kind == "FILE":
        print(FILES)
        return DONE
    for word, about in (*suggestion.words, *((name, "") for name in _names(suggestion.kind))):
        if word.startswith(current):
            print(f"{word}\t{about}" if about else word)
    return DONE


def suggest(top: Grammar, before: Sequence[str], current: str) -> Suggestion:
    """Return what may follow the words `before`, of which somebody has begun to type `current`. Pure."""
    command, placed, awaited = top, 0, None
    for word in before:
        if awaited is not None:
            awaited = None
        elif word.startswith("-"):
            awaited = next((one for one in command.options if word in one.names and one.value), None)
        elif below := next((one for one in command.actions if word in (one.words[-1], *one.aliases)), None):
            command, placed = below, 0
        else:
            placed += 1
    if awaited is not None:
        return _value(awaited)
    if current.startswith("-"):
        unused = [one for one in command.options if not set(one.names) & set(before)]
        return Suggestion(words=tuple((one.names[-1], one.about) for one in unused))
    if command.actions:
        return Suggestion(words=tuple((one.words[-1], one.about) for one in command.actions))
    return _place(command.arguments, placed)


def _value(option: Option) -> Suggestion:
    return Suggestion(words=tuple((choice, "") for choice in option.choices), kind=option.value)


def _place(arguments: Sequence[Argument], placed: int) -> Suggestion:
    if not arguments or (placed >= len(arguments) and not arguments[-1].many):
        return Suggestion()
    argument = arguments[min(placed, len(arguments) - 1)]
    return Suggestion(words=tuple((choice, "") for choice in argument.choices), kind=argument.name)


# --- names that root knows ---------------------------------------------------------------------------------------


def _services(root: Root) -> list[str]:
    found: list[Document] = root.get("/api/v1/services/")
    return list(names.short_names(found).values())


def _instances(root: Root) -> list[str]:
    found: list[Document] = root.get("/api/v1/services/")
    called = names.short_names(found)
    copies = [f"{called[one['id']]}.{copy['number']}" for one in found for copy in one["instances"]]
    return [*called.values(), *copies]


def _listed(path: str) -> Callable[[Root], list[str]]:
    return lambda root: [document["name"] for document in root.get(path)]


NAMES: Mapping[str, Callable[[Root], list[str]]] = {
    "APP": _listed("/api/v1/applications/"),
    "CLUSTER": _listed("/api/v1/clusters/"),
    "SERVICE": _services,
    "INSTANCE": _instances,
}
"""How root is asked for names of a kind."""


def _names(kind: str) -> list[str]:
    """Return the names of a kind; none if root does not answer, as an error would end up in what somebody types."""
    if kind not in NAMES:
        return []
    try:
        anyone = argparse.Namespace(root=None, installation=None)
        return sorted(NAMES[kind](session.connect(anyone, timeout_s=ANSWER_S)))
    except OakestraError:
        return []
