"""What the README shows runs as written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxsoft
from jaxsoft import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split()[1:] for line in README.splitlines() if line.startswith("    jaxsoft ")]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet, tmp_path):
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_parse(command):
    assert cli.parse(command)


def test_every_name_in_the_table_exists():
    rows = re.findall(r"^\| (`[a-z`, ]+`) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) >= 12
    for modules, description in rows:
        found = [getattr(jaxsoft, name) for name in re.findall(r"`(\w+)`", modules)]
        for name in re.findall(r"`([a-zA-Z_]+)(?:\(|`)", description):
            assert any(hasattr(module, name) for module in found), name
