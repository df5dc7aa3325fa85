"""Plug-ins of `tests/plugins`, really installed, for the tests that ask for them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

PLUGINS = Path(__file__).parent / "plugins"


def install_plugin(name: str, folder: Path, files: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Where the plug-in `name`, with `files` in the place of its own, lies as pip installs it, below `folder`."""
    source, target = folder / name, folder / "site"
    shutil.copytree(PLUGINS / name, source)
    for file, content in files.items():
        (source / file).write_text(content)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True, text=True)
    return target
