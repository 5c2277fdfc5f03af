"""Fail points: nobody dies unless told to, then exactly there, and once."""

from __future__ import annotations

import ast
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import oakestra
from oakestra.control import failpoints
from oakestra.control.failpoints import DIRECTORY, Point, heeded, reach

PACKAGE = Path(oakestra.__file__).parent
PROGRAM = """
from oakestra.control.failpoints import Point, heed_environment, reach
heed_environment()
reach(Point.ROOT_SENT)
print("lives")
"""


def run(**environment: str) -> tuple[int, str]:
    """Run a program that comes to `ROOT_SENT`; return how it ended and what it said."""
    variables = {"PYTHONPATH": str(PACKAGE.parent), **environment}
    done = subprocess.run(
        (sys.executable, "-c", PROGRAM), env=variables, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.strip() or done.stderr


def test_nobody_dies_without_the_setting() -> None:
    assert run() == (0, "lives")


def test_a_process_dies_where_a_file_says_and_the_next_one_lives(tmp_path: Path) -> None:
    (tmp_path / Point.ROOT_SENT.value).touch()
    assert run(**{DIRECTORY: str(tmp_path)}) == (-signal.SIGKILL, "")
    (spent,) = tmp_path.iterdir()
    assert spent.name.rpartition(".")[0] == Point.ROOT_SENT.value
    assert spent.suffix[1:].isdigit()
    assert run(**{DIRECTORY: str(tmp_path)}) == (0, "lives")


def test_a_file_of_another_point_or_process_is_not_heeded(tmp_path: Path) -> None:
    (tmp_path / Point.ROOT_DECIDED.value).touch()
    (tmp_path / Point.ROOT_SENT.value).write_text(str(os.getpid()))
    assert run(**{DIRECTORY: str(tmp_path)}) == (0, "lives")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_simulator_hears_of_points_while_it_listens() -> None:
    heard: list[Point] = []
    with heeded(heard.append):
        reach(Point.WORKER_TOLD)
    reach(Point.WORKER_TOLD)
    assert heard == [Point.WORKER_TOLD]


def test_every_point_says_what_is_true_there() -> None:
    (declared,) = ast.parse(inspect.getsource(failpoints.Point)).body
    assert isinstance(declared, ast.ClassDef)
    sentences = [
        after.value.value
        for before, after in zip(declared.body, declared.body[1:], strict=False)
        if isinstance(before, ast.Assign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    ]
    assert len(sentences) == len(Point)
    assert all(str(sentence).endswith(".") for sentence in sentences)


def test_every_point_is_marked() -> None:
    text = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    assert not [point.name for point in Point if f"Point.{point.name}" not in text]
