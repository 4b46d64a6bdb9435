"""docs/acl-simulator.md says what strict mode finds: every rule is in its table, and nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from acl_sim._errors import Rule

PAGE = Path(__file__).parents[3] / "docs" / "acl-simulator.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_every_rule_is_explained(page):
    table = page.partition("| rule |")[2].partition("\n## ")[0]
    named = [name for row in table.splitlines() if row.startswith("|") for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(named) == len(set(named))
    assert set(named) == set(get_args(Rule))


def test_links_lead_somewhere(page):
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    anchors = re.findall(r"\]\(#([^)]+)\)", page)
    files = re.findall(r"\]\((?!#|https?:)([^)]+)\)", page)
    assert anchors
    assert set(anchors) <= headings
    assert files
    assert all((PAGE.parent / file).exists() for file in files)


def test_its_program_ends_as_it_says(page, tmp_path):
    program, ledger = re.search(r"```python\n(import acl\n.*?)```.*?```\n(acl_sim ledger.*?)```", page, re.DOTALL).groups()
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "acl_sim", "--check", "program.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert 'File "program.py", line 8' in done.stderr
    assert done.stderr.endswith(ledger)
