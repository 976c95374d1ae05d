"""The generated parts of the reference say what the code says, and links between the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import generate

ROOT = Path(__file__).parents[2]
WRITTEN = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("page", list(generate.pages()), ids=lambda page: page.name)
def test_the_generated_parts_of_a_page_are_up_to_date(page: Path):
    text = page.read_text(encoding="utf-8")

    assert generate.renewed(text) == text, "run: python -m tests.docs.generate"


def test_every_part_that_can_be_made_is_on_a_page():
    used = [
        name for page in generate.pages() for name in re.findall(r"<!-- generated: ([a-z-]+) -->", page.read_text())
    ]

    assert sorted(generate.PARTS) == sorted(used)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_a_file_and_a_heading(page: Path):
    broken = [target for target in _links(page) if not _exists(page, target)]

    assert [] == broken


def test_every_page_can_be_reached_from_the_readme():
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in _links(page) if link[0] != "#"]
        for target in targets:
            ahead += sorted(target.glob("*.md")) if target.is_dir() else [target] if target.suffix == ".md" else []

    assert [] == [str(page.relative_to(ROOT)) for page in WRITTEN if page not in reached]


def _links(page: Path) -> list[str]:
    prose = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in target]


def _exists(page: Path, target: str) -> bool:
    place, _, anchor = target.partition("#")
    path = (page.parent / place).resolve() if place else page
    if not path.exists():
        return False
    return not anchor or anchor in _anchors(path)


def _anchors(path: Path) -> set[str]:
    """Headings as the forges turn them into anchors."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
