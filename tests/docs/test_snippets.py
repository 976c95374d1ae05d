"""Every snippet of README.md and docs/, and every script in examples/, does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from penstock import job_route
from penstock.job import JOBS
from tests.docs.runner import PageRunner, SnippetError
from tests.docs.snippets import PYTHON, SERVERS, Block, blocks
from tests.servers.redis_server import Server

ROOT = Path(__file__).parents[2]
PAGES = [page for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))] if page.exists()]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_snippets_of_the_page_run(
    page: Path, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def server_url(kind: str) -> str:
        server: Server = request.getfixturevalue(f"{kind}_server")
        return server.url

    page_blocks = list(blocks(page))
    for kind in sorted({b.directives["server"] for b in page_blocks if b.directives.get("server") in SERVERS}):
        server: Server = request.getfixturevalue(f"{kind}_server")
        server.flush()
    module = types.ModuleType("__main__")  # `if __name__ == "__main__":` and annotations work as in a reader's script
    modules = set(sys.modules)
    monkeypatch.setitem(sys.modules, "__main__", module)
    for variable in ("PENSTOCK_BROKER", "REDIS_URL"):  # ours would lead to a real server, the page's into the next page
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    monkeypatch.setattr(JOBS, "_classes", {})  # a reader's process knows only the page's own jobs
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        PageRunner(tmp_path, server_url, module).run(page_blocks)
    except SnippetError as error:
        print("".join(_cause(error)))
        pytest.fail(str(error), pytrace=False)
    finally:
        job_route.install(None)
        for name in set(sys.modules) - modules:  # what the page saved and imported is not the next page's
            if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]


@pytest.mark.parametrize("script", EXAMPLES, ids=_name)
def test_the_example_runs(script: Path, request: pytest.FixtureRequest, tmp_path: Path):
    code = script.read_text(encoding="utf-8")
    directives = dict(re.findall(r"^# (no-run|server): (.+)$", code, flags=re.MULTILINE))
    block = Block(script, 1, "python", code, directives)
    if mistake := block.mistake():
        pytest.fail(f"{block.where}: {mistake}", pytrace=False)
    if block.no_run is not None:
        print(f"{block.where}: not run: {block.no_run}")
        compile(code, str(script), "exec")
        return
    if kind := directives.get("server"):
        server: Server = request.getfixturevalue(f"{kind}_server")
        server.flush()
        code = block.code_for(server.url)
    copy = tmp_path / script.name
    copy.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", copy.name],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{script}: ended with {done.returncode}:\n{done.stdout}", pytrace=False)


def test_the_first_page_that_a_visitor_sees_has_code_that_is_run():
    readme = ROOT / "README.md"

    assert [block for block in blocks(readme) if block.language in PYTHON and block.no_run is None]


def _cause(error: SnippetError) -> list[str]:
    import traceback

    return traceback.format_exception(error.__cause__) if error.__cause__ is not None else []
