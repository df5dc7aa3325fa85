"""ImageNet class names: the demo classes of the releases by number, WordNet id and name."""

import pytest

from arbench.images.imagenet import NUM_CLASSES, class_index, class_names, synsets


@pytest.mark.parametrize(
    ("label", "index"),
    [
        ("207", 207),
        (" 980 ", 980),
        ("golden retriever", 207),
        ("Golden_Retriever", 207),
        ("n02099601", 207),
        ("giant panda", 388),
        ("monarch butterfly", 323),
        ("valley, vale", 979),
        ("llama", 355),
    ],
)
def test_class_index(label: str, index: int) -> None:
    assert class_index(label) == index


def test_every_wordnet_id_and_description_leads_back() -> None:
    assert len(class_names()) == len(set(synsets())) == NUM_CLASSES
    assert [class_index(synset) for synset in synsets()] == list(range(NUM_CLASSES))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("1000", "outside ImageNet's 0..999"),
        ("-1", "outside ImageNet's 0..999"),
        ("crane", "several classes; give a number: 134 .*, 517"),
        ("golden retreiver", "did you mean 'golden retriever'"),
        ("", "expected 0..999"),
    ],
)
def test_a_label_that_is_no_class_is_one_line(label: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        class_index(label)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200
