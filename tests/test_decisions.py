"""What code and documents refer to is there for whoever reads them: docs/decisions.md, by number."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions.md"
WRITTEN = {".cff", ".css", ".html", ".js", ".md", ".py", ".toml", ".txt", ".yaml", ".yml", ""}

ABSENT = re.compile(r"(?i)\bspec\b|\bdesign \"|\bissues? #?\d|/work\b")
"""Documents that this repository does not have, and how they were referred to."""

NAMED = re.compile(r"(?i)\bdecisions? (\d+(?:(?:, | and )\d+)*)")


def tracked() -> list[Path]:
    """Files of the repository that someone wrote."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git repository: which files belong to it is not known")
    paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in paths if path.suffix in WRITTEN and path.is_file() and path.name != "LICENSE"]


def decisions() -> list[int]:
    return [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", DECISIONS.read_text())]


def named(text: str) -> set[int]:
    """Numbers of the decisions that a text names."""
    return {int(number) for numbers in NAMED.findall(text) for number in re.findall(r"\d+", numbers)}


def test_nothing_points_to_what_a_reader_does_not_have() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ABSENT.search(line) and path != Path(__file__)
    ]
    assert not found


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: the headings of a page, as GitHub spells them."""
    headings = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_ends(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there, and modules that it names and nobody has."""
    found = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    modules = [f"/{path.relative_to(ROOT)}" for path in tracked() if path.suffix == ".py"]
    named_here = re.findall(r"`([\w/]+\.py)`", page.read_text())
    return found + [name for name in named_here if not any(module.endswith(f"/{name}") for module in modules)]


def test_links_and_modules_of_the_documents_are_there() -> None:
    pages = [path for path in tracked() if path.suffix == ".md"]
    assert {str(page.relative_to(ROOT)): found for page in pages if (found := dead_ends(page))} == {}


def test_dead_ends_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#another) [c](page.md) [d](gone.md) `grpo.py` `rl/nothing.py`\n")
    assert dead_ends(page) == ["#another", "gone.md", "rl/nothing.py"]


@pytest.mark.parametrize("line", ["see spec/x.md", 'read (spec "Rewards")', 'a field (design "Rows")', "as in issue 5"])
def test_such_references_are_found(line: str) -> None:
    assert ABSENT.search(line)


def test_every_decision_is_named_in_the_code_and_every_number_is_a_decision() -> None:
    numbers = decisions()
    assert len(numbers) == len(set(numbers)) > 0
    by_path = {path.relative_to(ROOT): named(path.read_text()) for path in tracked() if path != Path(__file__)}
    everywhere = set().union(*by_path.values())
    code = [path for path in by_path if path.suffix in (".py", ".yaml") and path.parts[0] != "tests"]
    in_code = set().union(*(by_path[path] for path in code))
    assert everywhere <= set(numbers), f"no such decisions: {sorted(everywhere - set(numbers))}"
    assert set(numbers) <= in_code, f"no code names decisions {sorted(set(numbers) - in_code)}"


def test_numbers_are_read_from_prose() -> None:
    assert named("as said (decision 7). Decisions 3, 4 and 24; the six decisions; decisions above 0.1") == {3, 4, 7, 24}


def test_the_tests_that_hold_decisions_exist() -> None:
    sources: dict[str, str] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        sources[path.name] = sources.get(path.name, "") + path.read_text()
    rows = [line for line in DECISIONS.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    for row in rows:
        held = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert held, f"no test holds {row}"
        for file, test in held:
            assert f"def {test}(" in sources.get(file, ""), f"{file} has no {test}"
