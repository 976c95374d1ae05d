"""The runner of the documentation's snippets: what it finds, what it runs, and that it notices what is broken."""

from __future__ import annotations

import textwrap
import types
from pathlib import Path

import pytest

from tests.docs.runner import PageRunner, SnippetError
from tests.docs.snippets import blocks, commands

SERVER = "redis://127.0.0.1:7000/3"


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def run(path: Path) -> dict[str, object]:
    module = types.ModuleType("snippets")
    PageRunner(path.parent, lambda _kind: SERVER, module).run(list(blocks(path)))
    return module.__dict__


def test_python_blocks_share_names_and_may_await(tmp_path: Path):
    names = run(page(tmp_path, """
        ```python
        import asyncio
        a = await asyncio.sleep(0, 1)
        ```
        text
        ```python
        b = a + 1
        ```
    """))  # fmt: skip

    assert 2 == names["b"]


def test_a_failure_names_the_line_of_the_page(tmp_path: Path):
    path = page(tmp_path, """
        ```python
        fine = 1

        1 / 0
        ```
    """)  # fmt: skip

    with pytest.raises(SnippetError, match=r"page\.md:5: ZeroDivisionError"):
        run(path)


def test_a_block_that_is_not_run_must_still_compile(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run(page(tmp_path, """
        <!-- no-run: needs a moon -->
        ```python
        land(moon)
        ```
    """))  # fmt: skip
    assert "page.md:4: not run: needs a moon" in capsys.readouterr().out

    with pytest.raises(SnippetError, match=r"page\.md:4"):
        run(page(tmp_path, """
            <!-- no-run: needs a moon -->
            ```python
            land(moon
            ```
        """))  # fmt: skip


def test_not_running_needs_a_reason(tmp_path: Path):
    with pytest.raises(SnippetError, match="needs a reason"):
        run(page(tmp_path, "<!-- no-run -->\n```python\n1\n```\n"))


def test_a_directive_counts_for_the_block_below_it_only(tmp_path: Path):
    path = page(tmp_path, """
        <!-- no-run: why -->
        Some words.
        ```python
        x = 1
        ```
        <!-- server: redis -->

        <!-- exit: 3 -->
        ~~~bash
        penstock stats
        ~~~
    """)  # fmt: skip

    assert [{}, {"server": "redis", "exit": "3"}] == [block.directives for block in blocks(path)]


def test_the_shown_address_becomes_the_server_of_the_tests(tmp_path: Path):
    names = run(page(tmp_path, """
        <!-- server: redis -->
        ```python
        urls = ["redis://localhost:6379", "valkey://localhost:6379/0", "redis://elsewhere:6379"]
        ```
    """))  # fmt: skip

    assert [SERVER, "valkey://127.0.0.1:7000/3", "redis://elsewhere:6379"] == names["urls"]


def test_an_address_without_a_directive_is_refused(tmp_path: Path):
    with pytest.raises(SnippetError, match="server: redis"):
        run(page(tmp_path, "```python\nurl = 'redis://localhost:6379'\n```\n"))


def test_a_saved_file_is_there_for_later_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names = run(page(tmp_path, """
        <!-- file: jobs.toml -->
        ```toml
        answer = 42
        ```
        ```python
        import pathlib
        text = pathlib.Path("jobs.toml").read_text()
        ```
    """))  # fmt: skip

    assert "answer = 42\n" == names["text"]


def test_only_our_own_commands_are_run():
    shell = """
        pip install penstock
        penstock dlq peek email \\
          --limit 5   # the newest five
        penstock-other x
    """
    assert [["dlq", "peek", "email", "--limit", "5"]] == list(commands(textwrap.dedent(shell)))


def test_in_a_transcript_the_output_is_no_command():
    assert [["stats"]] == list(commands("$ penstock stats\npenstock 0.1.0\n$ ls\n"))


@pytest.mark.parametrize(("directive", "ok"), [("", False), ("<!-- exit: 2 -->", True)])
def test_a_command_must_end_with_the_code_that_the_page_says(tmp_path: Path, directive: str, ok: bool):
    path = page(tmp_path, f"{directive}\n```bash\npenstock no-such-command\n```\n")

    if ok:
        run(path)
    else:
        with pytest.raises(SnippetError, match="`penstock no-such-command` ended with"):
            run(path)
