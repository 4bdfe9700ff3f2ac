"""The house is in order: a light import, one version, a docstring for every file, no paths of somebody's machine."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import harken

ROOT = Path(__file__).parents[1]


def _python(code: str) -> dict:
    """What a fresh interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


def test_the_import_is_light() -> None:
    seen = _python(
        "import time, torch, sys, json\n"
        "start = time.process_time()\n"
        "import harken\n"
        "harken.list_attention()\n"
        "print(json.dumps({'seconds': time.process_time() - start, 'modules': sorted(sys.modules)}))"
    )
    heavy = {"matplotlib", "transformers", "pesq", "scipy", "accelerate", "tensorboard", "pyroomacoustics", "gradio"}
    assert not heavy & set(seen["modules"])
    assert seen["seconds"] < 0.5


def test_errors_can_be_had_without_torch() -> None:
    seen = _python("import sys, json, harken.errors\nprint(json.dumps({'torch': 'torch' in sys.modules}))")
    assert not seen["torch"]


def test_every_file_says_what_it_is() -> None:
    paths = (ROOT / "src" / "harken").rglob("*.py")
    assert [path for path in paths if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))] == []


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert citation is not None
    assert harken.__version__ == project["version"] == citation[1]


def test_what_the_chores_install_is_pinned() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def installed(requirements: list[str]) -> set[str]:
        """With those of our own extras in their place; the extras of rooms that are planned are in none of them."""
        names: set[str] = set()
        for requirement in requirements:
            if requirement.startswith("harken["):
                own = requirement.removeprefix("harken[").removesuffix("]").split(",")
                names |= set().union(*(installed(extras[extra]) for extra in own))
            else:
                names.add(re.split(r"[\[<>=]", requirement)[0].lower().replace("_", "-"))
        return names

    wanted = installed([*project["dependencies"], "harken[dev]"])
    assert {"torch", "pesq", "pytest", "mkdocs-material"} <= wanted
    assert wanted - pinned == set()


def test_no_paths_of_a_machine() -> None:
    """Nor hosts that only some machine knows: a clone anywhere has to work."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    private = re.compile(
        r"(?<![\w.])/(?:home|Users|root|work|mnt|opt)/\w|localhost:\d|\b(?:10|192\.168)\.\d+\.\d+\.\d+\b"
    )
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue
        found += [f"{name}: {match[0]}" for match in private.finditer(text) if path != Path(__file__)]
    assert not found
