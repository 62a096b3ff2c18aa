"""CIDEr-D as a reward equals the reference implementation of self-critical training, and keeps nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fiber_eval.captioning import DocumentFrequencies, cider_d, cider_d_reward

REFERENCES = [["a man on a horse", "a man rides"], ["two dogs play", "the dogs"], ["a red car"], ["a man and a dog"]]
CANDIDATES = ["a man on a dog", "two dogs play", "a blue car rides", "a man and a dog"]


def test_equal_to_the_reference_implementation(coarse_reference: Path):
    golden = json.loads((coarse_reference.parent / "ciderD_example.json").read_text())
    counts = {tuple(gram): count for gram, count in golden["document_frequency"]}
    frequencies = DocumentFrequencies(counts, golden["ref_len"])
    for kind in ("", "permuted_"):
        rewards = cider_d_reward(golden[f"{kind}hypotheses"], golden["references"], frequencies)
        np.testing.assert_allclose(rewards, golden[f"{kind}scores"], rtol=0, atol=1e-9)


def test_frequencies_of_a_corpus_give_its_own_cider_d():
    rewards = cider_d_reward(CANDIDATES, REFERENCES, DocumentFrequencies.count(REFERENCES))
    np.testing.assert_allclose(rewards, cider_d(CANDIDATES, REFERENCES)[1], rtol=0, atol=1e-12)


def test_a_reward_depends_on_its_own_caption_only():
    frequencies = DocumentFrequencies.count(REFERENCES)
    together = cider_d_reward(CANDIDATES, REFERENCES, frequencies)
    alone = [cider_d_reward([text], [refs], frequencies)[0] for text, refs in zip(CANDIDATES, REFERENCES, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)
    samples = cider_d_reward([CANDIDATES[0], CANDIDATES[1], CANDIDATES[0]], [REFERENCES[0]] * 3, frequencies)
    assert samples[0] == samples[2] == pytest.approx(together[0], abs=1e-12)
    assert samples[1] < samples[0]


def test_counted_and_given_frequencies_are_the_same():
    captions = [[["a", "b", "a"], ["b"]], [["a"]]]
    counts = {("a",): 2.0, ("b",): 1.0, ("a", "b"): 1.0, ("b", "a"): 1.0, ("a", "b", "a"): 1.0}
    counted = DocumentFrequencies.count([[" ".join(words) for words in texts] for texts in captions])
    references = [["a b a", "b"], ["c a b"]]
    given = cider_d_reward(["a b c", "b a"], references, DocumentFrequencies(counts, 2))
    np.testing.assert_array_equal(cider_d_reward(["a b c", "b a"], references, counted), given)


def test_an_ngram_without_its_beginning():
    frequencies = DocumentFrequencies({("b", "c"): 3.0, ("c",): 2.0}, 10)
    fewer = DocumentFrequencies({("c",): 2.0}, 10)
    candidates, references = ["b c d"], [["a b c"]]
    assert cider_d_reward(candidates, references, frequencies) < cider_d_reward(candidates, references, fewer)


def test_save_and_load(tmp_path: Path):
    references = [*REFERENCES, ["é 3 1/2 '"]]
    frequencies = DocumentFrequencies.count(references)
    frequencies.save(tmp_path / "train.npz")
    loaded = DocumentFrequencies.load(tmp_path / "train.npz")
    candidates = [*CANDIDATES, "é 3 1/2 '"]
    expected = cider_d_reward(candidates, references, frequencies)
    np.testing.assert_array_equal(cider_d_reward(candidates, references, loaded), expected)
    assert expected[-1] > 5


def test_another_file_is_refused(tmp_path: Path):
    path = tmp_path / "other.npz"
    np.savez(path, something=np.arange(3))
    with pytest.raises(ValueError, match=r"other\.npz holds no document frequencies .*; write it with"):
        DocumentFrequencies.load(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"other\.npz holds no document frequencies"):
        DocumentFrequencies.load(path)


@pytest.mark.parametrize(
    ("counts", "num_images", "message"),
    [
        ({"a b": 1.0}, 2, "an n-gram must be a tuple of 1 to 4 words, but 'a b' came"),
        ({("a",) * 5: 1.0}, 2, "must be a tuple of 1 to 4 words"),
        ({("a",): 1.0}, 0, "num_images must be a positive number, but is 0"),
    ],
)
def test_frequencies_refused(counts: dict, num_images: float, message: str):
    with pytest.raises(ValueError, match=message):
        DocumentFrequencies(counts, num_images)


def test_captions_without_words():
    frequencies = DocumentFrequencies.count([["a dog"], [""]])
    assert cider_d_reward(["", "a dog"], [["a dog"], [""]], frequencies).tolist() == [0, 0]
    assert cider_d(["", ""], [[""], [""]])[0] == 0
