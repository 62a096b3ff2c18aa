"""Tokenizers that FIBER can use, and the masking of Devlin et al. (2019) with its shares."""

import time

import pytest
import torch
from fiber_data import load_tokenizer, mask_tokens, positive_map, train_tokenizer
from fiber_data.seeding import make_generator
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def rows(tokenizer):
    """Four hundred rows of thirty words between the special tokens, with padding at the end."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(5, len(tokenizer), (400, 30), generator=generator)
    begin, end, pad = (
        torch.full((400, width), token)
        for width, token in ((1, tokenizer.bos_token_id), (1, tokenizer.eos_token_id), (8, tokenizer.pad_token_id))
    )
    return torch.cat([begin, words, end, pad], 1)


def test_a_trained_tokenizer_follows_roberta_and_gives_every_text_back(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert len(tokenizer) <= 320
    for text in ("a red cat", "Häuser, 猫 & 🐈!", "  two  spaces", ""):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.cls_token_id == 0 and ids[-1] == tokenizer.sep_token_id == 2
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer("a red cat")["input_ids"]) < len(tokenizer("q zjf xwk")["input_ids"])  # it learnt words


def test_tokens_know_their_characters_without_the_space_before(tokenizer):
    text = "red cats on a mat"
    encoded = tokenizer(text, return_offsets_mapping=True)
    first, last = encoded.char_to_token(text.index("mat")), encoded.char_to_token(len(text) - 1)
    spans = encoded["offset_mapping"]
    assert text[spans[first][0] : spans[last][1]] == "mat"


def test_training_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="at least 261, not 260"):
        train_tokenizer(["a cat"], 260)
    with pytest.raises(TypeError, match=r"not one string; write \[text\]"):
        train_tokenizer("a cat", 300)


def test_a_saved_tokenizer_is_loaded_as_it_was(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.backend_tokenizer.to_str(pretty=True) == (tmp_path / "tokenizer.json").read_text(encoding="utf-8")
    assert loaded("a red cat")["input_ids"] == tokenizer("a red cat")["input_ids"]
    assert loaded.mask_token_id == tokenizer.mask_token_id and len(loaded) == len(tokenizer)


def test_robertas_two_files_are_enough(real_data):
    """The ids of the published roberta-base."""
    loaded = load_tokenizer(real_data("roberta_tokenizer"))
    assert loaded("Hello world!")["input_ids"] == [0, 31414, 232, 328, 2]
    assert (loaded.mask_token_id, len(loaded)) == (50264, 50265)


def test_a_hub_out_of_reach_is_told_at_once(monkeypatch, caplog):
    """The library would try each file of a name six times, a second to eight apart."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="a name on the Hugging Face hub that can be reached from here"):
        load_tokenizer("nobody/nothing-of-this-name")
    assert time.monotonic() - start < 5
    assert "Retry" not in caplog.text


def test_a_place_without_tokenizer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*: expected a folder with tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tokenizer.json", '"model"', '"modle"', r"cannot be read .*; copy or save it again"),
        ("tokenizer.json", '"<s>": 0', '"<s>": 99999', "cannot be used .its vocabulary has no token 0.; copy or save"),
        (
            "tokenizer_config.json",
            '"model_max_length": 1',
            '"model_max_length": "x", "x": 1',
            "its model_max_length is 'x'",
        ),
        ("tokenizer_config.json", "{", '{"auto_map": {"AutoTokenizer": ["evil.Evil", null]},', None),
    ],
)
def test_a_damaged_tokenizer_is_refused_and_runs_nothing(tmp_path, name, old, new, message):
    train_tokenizer(["a dog"], 300).save_pretrained(str(tmp_path))
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    if message is None:
        load_tokenizer(tmp_path)
    else:
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path)


def test_a_tokenizer_that_cannot_mask_is_refused(tmp_path):
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[UNK]").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no cls_token, sep_token, mask_token; add it with add_special_tokens"):
        load_tokenizer(tmp_path)


def test_masking_has_the_shares_of_bert(rows, tokenizer):
    masked, labels = mask_tokens(rows, tokenizer, probability=0.15, generator=torch.Generator().manual_seed(1))
    chosen = labels != -100
    assert torch.equal(labels[chosen], rows[chosen])
    assert torch.equal(masked[~chosen], rows[~chosen])
    assert 0.14 < chosen.sum() / (400 * 30) < 0.16
    became_mask = masked[chosen] == tokenizer.mask_token_id
    stayed = masked[chosen] == rows[chosen]
    assert 0.77 < became_mask.float().mean() < 0.83
    assert 0.08 < stayed.float().mean() < 0.12
    assert not torch.isin(masked[chosen & (masked != tokenizer.mask_token_id)], torch.arange(5)).any()


def test_random_tokens_are_drawn_from_the_whole_vocabulary(rows, tokenizer):
    masked, _ = mask_tokens(rows, tokenizer, probability=1.0, generator=torch.Generator().manual_seed(1))
    replaced = masked[(masked != rows) & (masked != tokenizer.mask_token_id)]
    assert replaced.min() == 5 and replaced.max() == len(tokenizer) - 1


def test_special_tokens_are_never_masked(rows, tokenizer):
    masked, labels = mask_tokens(rows, tokenizer, probability=1.0, generator=torch.Generator().manual_seed(2))
    special = torch.isin(rows, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(labels == -100, special)
    assert torch.equal(masked[special], rows[special])


def test_nothing_is_masked_at_probability_zero(rows, tokenizer):
    masked, labels = mask_tokens(rows, tokenizer, probability=0.0)
    assert torch.equal(masked, rows) and (labels == -100).all()


def test_a_rows_own_generator_makes_its_mask_independent_of_batch_and_padding(rows, tokenizer):
    def mask(ids, numbers):
        return mask_tokens(ids, tokenizer, probability=0.5, generator=[make_generator(3, number) for number in numbers])

    whole, labels = mask(rows[:4], range(4))
    assert not torch.equal(whole[0] == 4, whole[1] == 4)
    for some, padding in (([2, 0], 0), ([1], 5)):
        ids = torch.nn.functional.pad(rows[some], (0, padding), value=tokenizer.pad_token_id)
        again, again_labels = mask(ids, some)
        assert torch.equal(again[:, : rows.shape[1]], whole[some])
        assert torch.equal(again_labels[:, : rows.shape[1]], labels[some])


def test_masking_draws_from_the_global_generator_unless_given_one(rows, tokenizer):
    torch.manual_seed(4)
    first, _ = mask_tokens(rows, tokenizer)
    torch.manual_seed(4)
    second, _ = mask_tokens(rows, tokenizer)
    third, _ = mask_tokens(rows, tokenizer)
    assert torch.equal(first, second) and not torch.equal(second, third)


def test_masking_refuses_numbers_out_of_place(rows, tokenizer):
    with pytest.raises(ValueError, match=r"in \[0, 1\], not 15"):
        mask_tokens(rows, tokenizer, probability=15)
    with pytest.raises(ValueError, match=r"one generator or 400 \(one for each row\), not 1"):
        mask_tokens(rows, tokenizer, generator=[torch.Generator()])


def test_spans_map_to_the_originals_tokens(fine_goldens, fine_tokenizer):
    for case in fine_goldens["token_maps"]:
        encoding = fine_tokenizer([case["caption"]]).encodings[0]
        assert encoding.ids == case["input_ids"]
        found = positive_map(encoding, case["spans"], 256)
        assert found.dtype == torch.bool and list(found.shape) == case["positive_map_shape"]
        assert found.nonzero().tolist() == [entry[:2] for entry in case["positive_map_nonzero"]]


def test_a_span_of_several_parts_has_the_tokens_of_all_and_an_odd_one_has_none(tokenizer):
    text = "a red cat sees the blue bird"
    encoding = tokenizer([text]).encodings[0]
    tokens = positive_map(encoding, [[(0, 9), (15, 28)], [(1, 2)], [(40, 50)], [(0, 1)]], 20)
    parts = [
        tokenizer.decode([number for number, chosen in zip(encoding.ids, row, strict=False) if chosen])
        for row in tokens
    ]
    assert parts == ["a red cat the blue bird", "", "", "a"]


def test_tokens_that_were_cut_off_are_left_out(tokenizer):
    encoded = tokenizer(["red green blue cat dog"], truncation=True, max_length=4)
    tokens = positive_map(encoded.encodings[0], [[(0, 3)], [(15, 18)], [(0, 22)]], 4)
    assert tokens.any(1).tolist() == [True, False, True]
    assert tokens[2].tolist() == [False, True, True, False], "of a phrase that is cut its remaining tokens"


def test_every_token_of_a_characters_bytes_counts(tokenizer, real_data):
    """Of the last character too: the tokens of a span spell its words, whatever the bytes."""
    for each in (tokenizer, load_tokenizer(real_data("roberta_tokenizer"))):
        for words in (["自行车", "狗", "dog"], ["👨‍👩‍👧", "cafe\u0301", "e\u0323\u0302"], ["Häuser", "हिन्दी", "½"]):
            text = ". ".join(words)
            starts = [text.index(word) for word in words]
            encoding = each([text]).encodings[0]
            spans = [[(start, start + len(word))] for start, word in zip(starts, words, strict=True)]
            maps = positive_map(encoding, spans, len(encoding))
            ids = torch.tensor(encoding.ids)
            assert [each.decode(ids[row]).strip() for row in maps] == words
    roberta = each(["自行车. 狗"]).encodings[0]
    assert positive_map(roberta, [[(0, 3)], [(5, 6)]], 20).sum(1).tolist() == [8, 3]


def test_characters_that_a_tokenizer_drops_or_takes_apart_do_not_end_a_span():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "nin": 1, "1": 2, "⁄": 3, "2": 4}, unk_token="[UNK]"))
    words.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents()])
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    text = "   nin\u0303\u0301\u0302\u0304 ½"
    encoding = words.encode(text)
    assert encoding.tokens == ["nin", "1", "⁄", "2"]
    spans = [[(3, 10)], [(0, len(text))], [(11, 12)], [(0, 3)]]
    assert positive_map(encoding, spans, 4).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
