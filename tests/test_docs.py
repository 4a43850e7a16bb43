"""The examples in README and docs run as they stand, the README's first one against a real server."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))),
]
SERVER = "127.0.0.1:8001"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_examples_that_need_no_server_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):
        if SERVER not in block:
            exec(compile(block, page, "exec"), {"__name__": "example"})


def test_readme_runs_from_export_to_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = tmp_path / "models"
    source = [
        "zoo:resnet20-cifar10",
        "--repository",
        str(models),
        "--name",
        "resnet20",
        "--lowering",
        "masked",
    ]
    assert main(["export", *source]) == 0
    command = [sys.executable, "-m", "penstock.cli", "serve", "--model-repository", str(models)]
    command += ["--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            announced = re.search(r"at (\S+:\d+)", server.stdout.readline())
            assert announced is not None
            (example,) = [block for block in blocks("README.md") if SERVER in block]
            capsys.readouterr()
            exec(compile(example.replace(SERVER, announced.group(1)), "README.md", "exec"), {})
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
    assert "[ True  True  True  True]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page", [*PAGES, *(str(page.relative_to(ROOT)) for page in ROOT.glob("deploy/*/README.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^) ]+)", text) if not link.startswith("http")]
    assert [link for link in links if not leads_somewhere(ROOT / page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether there are such a file and, in it, such a heading."""
    name, _, heading = link.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not heading or heading in headings(file.read_text(encoding="utf-8")))


def headings(text: str) -> set[str]:
    """As links name them: lower case, blanks as hyphens, without punctuation."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "docs" / "decisions"]
    assert [page.name for page in pages if f"](docs/{page.name})" not in readme] == []


def test_readme_tables_are_those_of_the_results() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    assert subprocess.run(script, check=False).returncode == 0
