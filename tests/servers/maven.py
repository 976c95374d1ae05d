"""Java servers for tests: their jars, fetched by Maven once and kept below ``build/``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.servers.redis_server import ServerUnavailableError

CACHE = Path(__file__).parents[2] / "build" / "jars"
WITHIN = 300.0  # seconds for the first download
_POM = """<project><modelVersion>4.0.0</modelVersion><groupId>penstock.tests</groupId><artifactId>{name}</artifactId>
<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>
"""


def fetch_jars(name: str, *coordinates: str) -> Path:
    """The folder with the jars of ``group:artifact:version`` and all that they need. Raises ServerUnavailableError.

    Maven reads its own settings, so that a mirror or a proxy is whatever the machine says. Several test processes may
    ask at once: each fetches into a folder of its own, and the first to finish gives it its name.
    """
    if shutil.which("java") is None:
        raise ServerUnavailableError(f"java, which runs {name}, is not installed (`make servers` does it, as root)")
    jars = CACHE / f"{name}-{_slug(coordinates)}"
    if jars.exists():
        return jars
    if shutil.which("mvn") is None:
        raise ServerUnavailableError(f"mvn, which fetches {name}, is not installed (`make servers` does it, as root)")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        _copy_dependencies(name, coordinates, Path(scratch))
        try:
            (Path(scratch) / "libs").rename(jars)
        except OSError:
            if not jars.exists():  # nobody else was faster
                raise
    return jars


def _copy_dependencies(name: str, coordinates: tuple[str, ...], scratch: Path) -> None:
    dependencies = "".join(_dependency(*each.split(":")) for each in coordinates)
    (scratch / "pom.xml").write_text(_POM.format(name=name, dependencies=dependencies))
    (scratch / "libs").mkdir()
    command = ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=libs"]
    try:
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, timeout=WITHIN, env=os.environ)
    except subprocess.TimeoutExpired:
        raise ServerUnavailableError(f"Maven did not fetch {name} within {WITHIN:.0f} s") from None
    except subprocess.CalledProcessError as failed:
        raise ServerUnavailableError(f"Maven could not fetch {name}: {failed.stdout[-300:].strip()}") from None


def _dependency(group: str, artifact: str, version: str) -> str:
    inner = f"<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
    return f"<dependency>{inner}</dependency>"


def _slug(coordinates: tuple[str, ...]) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(each.partition(":")[2] for each in coordinates))
