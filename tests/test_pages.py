"""README.md, docs and docs/results agree: links, commands, the navigation of the site, and the rule of what is kept.

Input: the pages and the files of the repository. Output: none.
Does not depend on: what the package does; only on the names that the pages import from it.
"""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
DOCS = sorted(path for path in (ROOT / "docs").rglob("*.md") if RESULTS not in path.parents)
PAGES = [ROOT / "README.md", *DOCS]
REPORTS = sorted(RESULTS.rglob("*.md"))
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "adapters/README.md")]
# What `benchmarks.ablation --split dev --calibrated` writes before other commands of its block read it.
_WRITTEN_BY_A_COMMAND = re.compile(r"/dev-(raw|prior|calibration|decision-weights)\.parquet$")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _code_blocks(page: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def _expand(pattern: str) -> Iterator[str]:
    """The paths that the shell makes of braces: `seed-1{3,4}` is `seed-13` and `seed-14`."""
    if (found := re.search(r"\{([^{}]*)\}", pattern)) is None:
        yield pattern
        return
    for choice in found[1].split(","):
        yield from _expand(pattern[: found.start()] + choice + pattern[found.end() :])


def _anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _named_results(page: Path) -> set[str]:
    """Paths below docs/results that a page names; in a block with a `cd`, tables are below that folder."""
    named = set(re.findall(r"docs/results/[\w./{},-]*[\w}]", page.read_text("utf-8")))
    for block in _code_blocks(page):
        if (folder := re.search(r"^cd (docs/results\S*)", block, re.MULTILINE)) is not None:
            words = re.sub(r"#.*", "", block).split()
            tables = [re.sub(r"(?:^|(?<=[{,]))[\w-]+=", "", word) for word in words if word.endswith(".parquet")]
            named |= {f"{folder[1]}/{table}" for table in tables}
    return named


@pytest.mark.parametrize("page", [*PAGES, *REPORTS, *OTHERS], ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def _navigation(page: Path) -> Iterator[Path]:
    """The pages that the toctrees of a page list."""
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for entry in block.split("\n"):
            if entry and not entry.startswith(":"):
                name = re.sub(r".*<(.*)>", r"\1", entry)  # `Title <page>`, or `page`
                yield page.parent / f"{name}.md"


def test_every_page_of_the_site_is_in_its_navigation_once() -> None:
    """Without Sphinx, whose strict build refuses the same."""
    index = ROOT / "docs" / "index.md"
    listed = [index, *_navigation(index), *_navigation(RESULTS / "README.md")]
    assert sorted(listed) == sorted([*DOCS, *REPORTS])


def test_on_the_site_a_link_to_a_folder_is_its_path() -> None:
    text = (
        "[tables](results/finals), [the code](../erc_llm/), [one](results.md#epochs), [web](https://a.b), ![p](x.svg)"
    )
    expected = (
        "tables (`docs/results/finals` in the repository), the code (`erc_llm` in the repository), "
        "[one](results.md#epochs), [web](https://a.b), ![p](x.svg)"
    )
    with_links = runpy.run_path(str(ROOT / "docs" / "conf.py"))["with_links_into_the_site"]
    assert with_links(text, ROOT / "docs") == expected
    assert with_links("[README](../../README.md)", RESULTS) == "README (`README.md` in the repository)"
    assert with_links("[configs/](../configs/)", ROOT / "docs") == "`configs`"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_file_of_the_results_that_a_page_names_is_there(page: Path) -> None:
    paths = [path for named in _named_results(page) for path in _expand(named)]
    kept = [path for path in paths if not _WRITTEN_BY_A_COMMAND.search(path)]
    assert [path for path in kept if not list(ROOT.glob(path))] == []


def test_commands_in_a_folder_of_the_results_are_looked_at() -> None:
    named = _named_results(ROOT / "docs" / "baselines.md")
    assert "docs/results/finals/none-1{3,4,5}/dev.parquet" in named
    assert list(_expand("a{,-b}/c{1,2}")) == ["a/c1", "a/c2", "a-b/c1", "a-b/c2"]


def test_the_page_of_the_results_names_every_folder_and_nothing_that_is_gone() -> None:
    page = (RESULTS / "README.md").read_text("utf-8")
    rows = [row for row in page.partition("| folder |")[2].splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert [name for name in sorted(named) if not (RESULTS / name).exists()] == []
    files = {path.relative_to(RESULTS) for path in RESULTS.rglob("*") if path.is_file()} - {Path("README.md")}
    assert [str(file) for file in sorted(files) if not named & {str(file), *map(str, file.parents)}] == []


def test_the_tables_of_the_results_do_not_hold_the_text_of_the_corpus() -> None:
    tables = sorted(RESULTS.rglob("*.parquet"))
    assert tables
    with_text = [_name(path) for path in tables if {"text", "raw_answer"} & set(pq.read_schema(path).names)]
    assert with_text == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_what_the_python_of_a_page_imports_is_there(page: Path) -> None:
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    imports = re.findall(r"^from (erc_llm\S*) import (.+)$", code, re.MULTILINE)
    missing = [
        f"{module}.{name}"
        for module, names in imports
        for name in names.split(", ")
        if not hasattr(importlib.import_module(module), name)
    ]
    assert missing == []


@pytest.mark.parametrize("page", DOCS, ids=_name)
def test_prose_is_wrapped(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 120 and not line.startswith("|")] == []
