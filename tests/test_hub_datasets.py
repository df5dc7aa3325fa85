"""Images of a Hugging Face data set: by the package where it is installed, by a stand-in of it everywhere."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from arbench.images.data import open_data
from arbench.machine.distributed import Processes
from arbench.training.identity import data_hash
from arbench.training.reading import list_once


def png(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 7, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


class StandInImage:
    def __init__(self, decode=True):
        self.decode = decode


class StandInTable:
    """As much of `datasets.Dataset` as is asked for."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    @property
    def column_names(self):
        return list(self.columns)

    def select_columns(self, names):
        return StandInTable({name: self.columns[name] for name in names}, self.features)

    def cast_column(self, name, feature):
        assert not feature.decode
        return StandInTable(self.columns, {**self.features, name: feature})

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


def table(labels=(1, 0, 1), names=("cat", "dog"), column="image", feature=None):
    images = [{"bytes": png(10 * number), "path": None} for number in range(len(labels))]
    features = {column: feature or StandInImage(), "label": SimpleNamespace(names=names and list(names))}
    return StandInTable({column: images, "label": list(labels)}, features)


@pytest.fixture
def package(monkeypatch):
    """A stand-in for `datasets` whose `load_dataset` gives `found` and remembers how it was asked."""
    module = ModuleType("datasets")
    module.Image, module.found, module.asked = StandInImage, table(), []

    def load_dataset(name, **options):
        module.asked.append((name, options))
        if isinstance(module.found, Exception):
            raise module.found
        return module.found

    def load_from_disk(folder):
        module.asked.append(folder)
        return module.found

    module.load_dataset, module.load_from_disk = load_dataset, load_from_disk
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_a_name_and_its_split(package):
    data = open_data("hf:someone/pets:validation", size=4)
    assert package.asked == [("someone/pets", {"split": "validation", "trust_remote_code": False})]
    assert data.labels.tolist() == [1, 0, 1]
    assert data.labels.dtype == np.int64
    assert data.class_names == ["cat", "dog"]
    assert data.images().shape == (3, 4, 4, 3)
    assert data.images()[:, 0, 0, 0].tolist() == [0, 10, 20]
    open_data("hf:someone/pets")
    assert package.asked[1][1]["split"] == "train"


def test_images_that_are_files_beside_the_table(package, tmp_path):
    (tmp_path / "1.png").write_bytes(png(70))
    package.found.columns["image"][1] = {"bytes": None, "path": str(tmp_path / "1.png")}
    assert open_data("hf:pets")[1][0][0, 0].tolist() == [70, 70, 70]


def test_a_saved_folder_of_splits(package, tmp_path):
    (tmp_path / "dataset_dict.json").write_text("{}")
    package.found = {"test": table(labels=(0,)), "train": table()}
    assert len(open_data(f"hf:{tmp_path}:test")) == 1
    assert len(open_data(f"hf:{tmp_path}")) == 3
    assert package.asked == [str(tmp_path)] * 2
    with pytest.raises(ValueError, match=r"unknown split of .* 'tests'; did you mean 'test'\?"):
        open_data(f"hf:{tmp_path}:tests")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (ConnectionError("no\nnetwork"), r"hf:pets: not to be loaded \(no network\)"),
        (table(column="img"), r"hf:pets: no column 'image' among img, label"),
        (table(feature="string"), r"hf:pets: column 'image' is string; expected images"),
        (table(labels=(0, -1)), r"hf:pets: row 1: label -1; expected a whole number, 0 or more"),
        (table(labels=(0, None)), r"hf:pets: row 1: label None; expected a whole number"),
        (table(labels=(0, 2)), r"hf:pets: label 2; expected one below 2, the number of classes"),
        (table(labels=()), r"hf:pets: no rows; expected images"),
    ],
)
def test_mistakes_are_one_line(package, found, told):
    package.found = found
    with pytest.raises(ValueError, match=told) as caught:
        open_data("hf:pets")
    assert "\n" not in str(caught.value)


def test_numbers_are_names_where_there_are_no_others(package):
    package.found = table(labels=(3, 0), names=None)
    assert open_data("hf:pets").class_names == ["0", "1", "2", "3"]


@pytest.mark.parametrize("source", ["hf:", "hf::train", "hf:pets:"])
def test_a_source_without_a_name_is_told(package, source):
    with pytest.raises(ValueError, match=f"^{source}: expected hf:NAME_OR_FOLDER or hf:NAME_OR_FOLDER:SPLIT"):
        open_data(source)


def test_a_broken_row_is_named(package):
    package.found.columns["image"][2]["bytes"] = b"no picture"
    with pytest.raises(ValueError, match="hf:pets: row 2: not a readable image"):
        open_data("hf:pets")[2]


def test_nothing_is_listed_beforehand(package):
    list_once("hf:pets", Processes(), again=False, say=pytest.fail)
    assert package.asked == []


def test_without_the_package_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"hf: needs the package datasets .*; expected `pip install 'arbench\[datasets\]'`"
    ):
        open_data("hf:pets")


@pytest.mark.filterwarnings("default")  # the packages below it have their own
def test_a_data_set_that_the_package_saved(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is an extra: pip install 'arbench[datasets]'")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    rows = {"image": [{"bytes": png(10 * number), "path": None} for number in range(5)], "label": [1, 0, 1, 1, 0]}
    info = datasets.DatasetInfo(features=features)
    stored = datasets.table.InMemoryTable.from_pydict(rows, schema=features.arrow_schema)
    saved = datasets.Dataset(
        stored, info=info, fingerprint="five"
    )  # given, since dill cannot hash every pyarrow's table
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(test=saved.select([3, 1])).save_to_disk(str(tmp_path / "splits"))
    data = open_data(f"hf:{tmp_path}/one", size=4)
    assert data.labels.tolist() == [1, 0, 1, 1, 0]
    assert data.class_names == ["cat", "dog"]
    assert data.images()[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]
    part = open_data(f"hf:{tmp_path}/splits:test")
    assert part.labels.tolist() == [1, 0]
    assert part.images()[:, 0, 0, 0].tolist() == [30, 10]
    with pytest.raises(ValueError, match="is one split by itself"):
        open_data(f"hf:{tmp_path}/one:test")


def test_the_pictures_name_a_cache_and_not_the_folder(package, tmp_path):
    """Many rows are told apart by some of them, few by all."""
    names = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        names.add(data_hash(open_data(f"hf:{tmp_path / name}", size=4)))
    assert len(names) == 1
    package.found.columns["image"][1] = {"bytes": png(99), "path": None}
    names.add(data_hash(open_data(f"hf:{tmp_path / 'one'}", size=4)))
    (tmp_path / "file.png").write_bytes(png(98))
    package.found.columns["image"][1] = {"bytes": None, "path": str(tmp_path / "file.png")}
    names.add(data_hash(open_data(f"hf:{tmp_path / 'one'}", size=4)))
    assert len(names) == 3
