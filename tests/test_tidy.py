"""The house rules that a program can check; STYLE.md says why."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "oakestra"
MODULE_LINES_MAX = 600
PACKAGE_MODULES_MAX = 16
PUBLIC_METHODS_MAX = 20
"""One per route, in the classes that answer HTTP; everywhere else aim at ten."""
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "core"}
FORBIDDEN_IN_NAMES = re.compile(r"Manager|Handler$|Helper|Util|Processor|Abstract|Impl$")
HANDLERS_ALLOWED = {"Handler"}
"""`root.api.gate.Handler`: what ASGI calls a function that answers a request."""
ENTRY_POINTS = {
    "oakestra", "oakestra.__main__", "oakestra.runtime.images.__main__",
    "oakestra.root.service", "oakestra.cluster.service", "oakestra.worker.service",
}  # fmt: skip
"""Started by name."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns),
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_module_is_short_named_for_a_noun_and_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert path.stem not in NAMELESS
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module begins with a sentence that says what it is"


def test_names_say_what_a_thing_is() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name not in HANDLERS_ALLOWED:
                assert not FORBIDDEN_IN_NAMES.search(node.name), f"{dotted(path)}.{node.name}"


def test_classes_and_packages_stay_small() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                public = [
                    child.name
                    for child in node.body
                    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and child.name[0] != "_"
                ]
                assert len(public) <= PUBLIC_METHODS_MAX, f"{dotted(path)}.{node.name}: {len(public)}"
    for package in {path.parent for path in modules()}:
        assert len(list(package.glob("*.py"))) <= PACKAGE_MODULES_MAX, dotted(package / "__init__.py")


def test_every_module_is_used() -> None:
    """By an import, by name in a table of commands, or by a script."""
    used = set(ENTRY_POINTS)
    for path in [*modules(), *tracked("bench/*.py", "tests/*.py")]:
        for name in imported(path):
            parts = name.split(".")
            used |= {".".join(parts[:length]) for length in range(1, len(parts) + 1)}
    text = "\n".join(path.read_text() for path in (*modules(), *tracked("*.sh")))
    unused = {dotted(path) for path in modules() if path.read_text().strip()} - used
    assert not {name for name in unused if not re.search(rf"{re.escape(name)}(?![\w.])", text)}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_what_is_left_to_do_is_an_issue_and_not_a_comment() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX)\b(?!.*#\d+)")
    for path in tracked("*.py", "*.sh", "*.md", "*.toml"):
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not left.search(line) or "FIX" in line, (
                f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            )


def test_a_page_has_one_title_and_its_links_lead_somewhere() -> None:
    for path in tracked("*.md"):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        titles = [line for line in text.splitlines() if line.startswith("# ")]
        assert len(titles) == 1, f"{path.relative_to(ROOT)} has {len(titles)} titles"
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if not re.match(r"[a-z]+:", target):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_every_test_is_run() -> None:
    """`test.sh` names the rings it runs side by side: what it does not name is not run."""
    script = (ROOT / "test.sh").read_text()
    rings = re.findall(r"^(?:quiet|machine)=\((.*)\)$", script, re.MULTILINE)
    named = {ROOT / one for ring in rings for one in ring.split()}
    files = tracked("tests/*test_*.py")
    assert len(rings) == 2
    assert not [path for path in files if not named & {path, *path.parents}]
