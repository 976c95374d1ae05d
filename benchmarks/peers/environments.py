"""A virtualenv for each peer, made by plain venv and pip when it is first needed, kept below ``build/peers``."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.catalog import Peer

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "peers"
INSTALL_WITHIN = 600.0
VERSIONS = (
    "import json, sys, importlib.metadata as m;print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


class NotInstalledError(Exception):
    """The peer cannot be had here; the message says why."""


def interpreter(peer: Peer) -> Path:
    """The Python of its environment, installed if need be."""
    if not peer.requires:
        return Path(sys.executable)
    folder = CACHE / "venvs" / peer.name
    python, stamp = folder / "bin" / "python", folder / "installed"
    if python.exists() and stamp.exists() and stamp.read_text() == _wanted(peer):
        return python
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        _run([*pip, "-c", str(peer.constraints), *peer.requires])
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise NotInstalledError(f"not installed: {said[-1] if said else 'pip failed'}") from error
    stamp.write_text(_wanted(peer))
    return python


def versions(peer: Peer) -> dict[str, str]:
    """Of its distributions, as installed in its environment."""
    done = _run([str(interpreter(peer)), "-c", VERSIONS, *peer.distributions])
    found: dict[str, str] = json.loads(done.stdout)
    return found


def _wanted(peer: Peer) -> str:
    text = "\n".join([sys.version, *peer.requires, peer.constraints.read_text(encoding="utf-8")])
    return hashlib.sha256(text.encode()).hexdigest()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_WITHIN)
