"""The pages for whoever changes arbench say what is there."""

from __future__ import annotations

import configparser
import csv
import io
import re
from pathlib import Path

import pytest

from arbench import cli
from arbench.generators.ar.release import CARDS, RELEASE
from arbench.generators.cards import MIT, hub_card
from arbench.generators.spec import Release
from arbench.papers.published import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    *("arbench/README.md", "experiments/README.md", "tests/parity/README.md"),
    *("arbench/weights/README.md", "arbench/training/README.md"),
)


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    """Code blocks of a page, without the indent that a list gives them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text(page), re.M | re.S)
    return ["\n".join(line[len(indent) :] for line in block.splitlines()) for indent, block in found]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)\)", text(page)):
        assert ((ROOT / page).parent / link).exists(), link


def test_every_room_is_described_in_the_order_of_imports():
    """The table of rooms is the contract that import-linter holds."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    layers = parser["importlinter:contract:layers"]["layers"].split()
    wanted = [name for name in layers if name not in ("|", "__main__")]
    rows = re.findall(r"^\| (`[a-z`, ]+`) \|", text("arbench/README.md").partition("## The rooms")[2], re.M)
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(wanted)
    assert [
        name for name in told if name in ("cli", "papers", "runs", "tokenizer", "generators", "heads", "images")
    ] == [name for name in wanted if name in ("cli", "papers", "runs", "tokenizer", "generators", "heads", "images")]


def test_functions_of_the_papers_are_where_the_page_says():
    found = re.findall(r"`([\w/]+\.py): (\w+)`", text("arbench/README.md"))
    assert len(found) > 10
    for file, name in found:
        assert re.search(rf"^(def|class) {name}\b", (ROOT / "arbench" / file).read_text(), re.M), (file, name)


def test_files_on_the_way_of_an_image_exist():
    way = text("arbench/README.md").partition("## The life of an image")[2].partition("## The rooms")[0]
    for file in re.findall(r"`([\w/]+\.py)`", way):
        assert (ROOT / "arbench" / file).is_file(), file
    assert len(re.findall(r"^\d+\. ", way, re.M)) == 10


def test_parity_folders_are_described():
    folders = {path.name for path in (ROOT / "tests/parity").iterdir() if path.is_dir()}
    told = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text("tests/parity/README.md"), re.M))))
    assert folders <= told


def test_the_table_of_the_how_to_is_planned(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("experiments/README.md", "yaml")
    Path("mine.yaml").write_text(block, encoding="utf-8")
    assert cli.run_command(["reproduce", "mine.yaml"]) == 0
    plan = capsys.readouterr().out
    assert plan.count("can run") >= 2
    assert "another group's" in plan
    (printed,) = blocks("experiments/README.md", "csv")
    (line,) = csv.DictReader(io.StringIO(printed))
    assert tuple(line) == COLUMNS


def test_the_release_of_the_how_to_is_that_of_ar():
    format_, card = blocks("arbench/weights/README.md", "python")
    names = {"Release": Release, "read_config": RELEASE.read_config, "hub_card": hub_card, "MIT": MIT}
    exec(compile(format_, "how-to", "exec"), names)
    exec(compile(card, "how-to", "exec"), names)
    release = names["RELEASE"]
    assert (release.wanted, release.unwanted, release.untold) == (RELEASE.wanted, RELEASE.unwanted, RELEASE.untold)
    assert names["CARDS"] == CARDS[:1]
