"""A wheel holds what a checkout holds: every package, and every data file that the commands read."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from arbench.machine.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]
# What commands read beside code. Tables and plots are rebuilt from records, and READMEs are for readers of a checkout.
DATA = ("arbench/assets/*", "tokenizers/arbench_tokenizers/assets/*", "experiments/**/*.yaml")
DATA += ("results/published/*.csv", "results/records/**/*.json")
DATA += ("arbench/**/README.md", "experiments/README.md")  # the how-tos
DATA += ("arbench/py.typed", "tokenizers/arbench_tokenizers/py.typed")  # annotations are for users' type checkers too


@pytest.fixture(scope="module")
def options():
    """The sections of setup.cfg on packages."""
    if not (ROOT / "setup.cfg").is_file():
        pytest.skip("installed without the checkout")
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text):
    return [line.strip() for line in text.strip().splitlines()]


@pytest.fixture(scope="module")
def folders(options):
    """The folder of each package that is listed."""
    elsewhere = dict(map(str.strip, line.split("=")) for line in lines(options["options"]["package_dir"]))
    names = lines(options["options"]["packages"])
    return {name: ROOT / elsewhere.get(name, name.replace(".", "/")) for name in names}


def test_every_package_is_listed(folders):
    found = {file.parent for part in ("arbench", "tokenizers") for file in (ROOT / part).rglob("__init__.py")}
    assert found
    assert found <= set(folders.values())
    assert all(folder.is_dir() for folder in folders.values())


def test_every_data_file_is_packaged(options, folders):
    packaged = {
        file
        for name, patterns in options["options.package_data"].items()
        for pattern in patterns.split(",")
        for file in folders[name].glob(pattern.strip())
    }
    wanted = {file for pattern in DATA for file in ROOT.glob(pattern) if file.is_file()}
    assert all(
        any(file.match(pattern) for file in wanted)
        for pattern in ("*.yaml", "*.csv", "*.json", "*.safetensors", "py.typed")
    )
    assert sorted(wanted - packaged) == []


def test_the_citation_is_of_this_licence_and_names_nobody_invented(options):
    told = read_yaml(ROOT / "CITATION.cff")
    assert told["cff-version"] == "1.2.0"
    assert told["title"] == options["metadata"]["name"]
    assert told["license"] == options["metadata"]["license"]
    assert told["authors"] == [{"name": "arbench contributors"}]
