"""Text to ids and back: what is cut, what is left alone, what is refused; streams of text; threads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from aligner.errors import PromptError
from aligner.tokens import IncrementalText, TextCodec
from tests.models import (
    TOKENIZERS,
    altered,
    byte_bpe_tokenizer,
    chatml_tokenizer,
    gemma_tokenizer,
    gpt2_tokenizer,
    llama2_tokenizer,
    llama3_tokenizer,
    neox_tokenizer,
    tilde_tokenizer,
    unigram_tokenizer,
)

ORDINARY = "The quick brown fox: 3 + 4 = 7, isn't it?\n\n    indented  twice\tÄpfel, 世界 and 😀."


def plain(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])


def named(tokenizer: Any, *names: str) -> set[int]:
    ids = set(tokenizer.convert_tokens_to_ids(list(names)))
    assert len(ids) == len(names)
    return ids


def unigram(pieces: Sequence[str], normalizer: Any = None, **tokens: str) -> Any:
    """Every piece is as likely as its length, so the longest are taken."""
    model = models.Unigram([("<unk>", -99.0), *((p, -1.0 / len(p)) for p in pieces)], unk_id=0)
    backend = Tokenizer(model)
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **tokens)


def byte_level(special: Sequence[str] = (), added: Sequence[str] = ()) -> Any:
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    backend.add_tokens([AddedToken(s, special=False, normalized=False) for s in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


class TestWhatIsReserved:
    @pytest.mark.parametrize(
        ("build", "names"),
        [
            (byte_bpe_tokenizer, ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]),
            (
                chatml_tokenizer,
                ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>"],
            ),
            (llama2_tokenizer, ["<unk>", "<s>", "</s>"]),
            (unigram_tokenizer, ["<pad>", "<unk>", "</s>"]),
            (neox_tokenizer, ["<|endoftext|>", "<|padding|>"]),
            (tilde_tokenizer, ["~", "<|pad|>"]),
            (
                gemma_tokenizer,
                ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<table>", "</table>", "<b>"],
            ),
        ],
    )
    def test_special_tokens_and_added_ones_that_are_no_ordinary_text(self, build, names) -> None:
        tokenizer = build()
        assert TextCodec(tokenizer).reserved == named(tokenizer, *names)

    @pytest.mark.parametrize("name", [n for n in TOKENIZERS if n not in ("unigram", "chatml")])
    def test_ordinary_text_is_encoded_as_the_tokenizer_does(self, name: str) -> None:
        """Blanks, line ends and single letters among the added tokens are no reason to cut."""
        tokenizer = TOKENIZERS[name]()
        ids = TextCodec(tokenizer).encode(ORDINARY)
        assert ids == plain(tokenizer, ORDINARY)
        assert len(ids) < len(ORDINARY.encode())

    def test_runs_of_blanks_keep_their_tokens(self) -> None:
        for tokenizer, text, token in ((neox_tokenizer(), "a    ", "    "), (gemma_tokenizer(), "a    ", "▁▁▁▁")):
            assert named(tokenizer, token) <= set(TextCodec(tokenizer).encode(text))

    def test_a_letter_among_the_added_tokens_is_ordinary_text(self) -> None:
        tokenizer = byte_level(special=["</s>"], added=["世", "<tag>"])
        codec = TextCodec(tokenizer)
        assert codec.reserved == named(tokenizer, "</s>", "<tag>")
        assert codec.decode(codec.encode("世界 </s> <tag>")) == "世界 </s> <tag>"


class TestEncode:
    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_no_text_no_ids(self, name: str) -> None:
        assert TextCodec(TOKENIZERS[name]()).encode("") == ()

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_begin_and_end_tokens_are_not_added(self, name: str) -> None:
        codec = TextCodec(TOKENIZERS[name]())
        assert codec.reserved.isdisjoint(codec.encode("Hello."))

    def test_lone_surrogates_become_question_marks(self) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        assert codec.encode("a\ud800b\udfffc") == codec.encode("a?b?c")
        assert codec.encode("é\ud83d") == codec.encode("é?")

    def test_added_tokens_that_are_not_special_are_cut_and_nothing_else_is(self) -> None:
        codec = TextCodec(chatml_tokenizer())
        around = codec.encode("The quick brown fox ")
        ids = codec.encode("The quick brown fox <think>The quick brown fox ")
        assert ids[: len(around)] == around
        assert ids[-len(around) :] == around
        assert codec.decode(ids) == "The quick brown fox <think>The quick brown fox "
        assert len(ids) <= 2 * len(around) + len("<think>")

    def test_occurrences_that_overlap_are_all_cut(self) -> None:
        tokenizer = byte_level(added=["aba", "abab", "bb"])
        codec = TextCodec(tokenizer)
        assert len(codec.reserved) == 3
        for text in ("aba", "ababa", "abababab", "bbb", "abbaba", "abb" * 5):
            ids = codec.encode(text)
            assert codec.reserved.isdisjoint(ids)
            assert codec.decode(ids) == text

    def test_pieces_of_a_unigram_vocabulary(self) -> None:
        tokenizer = unigram_tokenizer()
        codec = TextCodec(tokenizer)
        assert tokenizer.eos_token_id in plain(tokenizer, "one</s>two"), "splitting alone does not help here"
        ids = codec.encode("one</s>two")
        assert codec.reserved.isdisjoint(ids)
        assert codec.decode(ids).replace(" ", "") == "one</s>two"

    def test_a_normaliser_that_makes_a_token_costs_only_its_surroundings(self) -> None:
        tokenizer = unigram_tokenizer()
        codec = TextCodec(tokenizer)
        words = "The quick brown fox jumps over the lazy dog. " * 40
        assert tokenizer.eos_token_id in plain(tokenizer, "＜/s＞"), "splitting alone does not help here"
        clean = codec.encode(words + words)
        ids = codec.encode(words + "＜/s＞" + words)
        assert codec.reserved.isdisjoint(ids)
        assert codec.decode(ids).replace(" ", "") == (words + "</s>" + words).replace(" ", "")
        assert len(ids) < len(clean) * 1.1

    def test_a_normaliser_that_lowers_letters(self) -> None:
        tokenizer = unigram([*"abcdenosx<>/?", "</s>"], normalizers.Lowercase(), eos_token="</s>")
        assert tokenizer.eos_token_id in plain(tokenizer, "a</S>b")
        codec = TextCodec(tokenizer)
        assert codec.decode(codec.encode("a</S>b")) == "a</s>b"
        assert codec.reserved.isdisjoint(codec.encode("a</S>b"))

    def test_a_normaliser_that_drops_letters(self) -> None:
        tokenizer = unigram([*"abs<>/?", "</s>"], normalizers.Replace("\u200b", ""), eos_token="</s>")
        assert tokenizer.eos_token_id in plain(tokenizer, "a<\u200b/s>b")
        codec = TextCodec(tokenizer)
        assert codec.decode(codec.encode("a<\u200b/s>b")) == "a</s>b"
        assert codec.reserved.isdisjoint(codec.encode("a<\u200b/s>b"))

    def test_unknown_characters_become_question_marks(self) -> None:
        tokenizer = unigram_tokenizer()
        codec = TextCodec(tokenizer)
        assert tokenizer.unk_token_id in plain(tokenizer, "fox 😀 dog")
        assert codec.encode("fox 😀 dog 你") == codec.encode("fox ? dog ?")

    def test_a_character_that_is_unknown_only_after_the_cut(self) -> None:
        tokenizer = unigram([*"abs/>?", "</s>"], eos_token="</s>")
        codec = TextCodec(tokenizer)
        assert codec.decode(codec.encode("a</s>b")) == "a?/s>b"
        assert codec.reserved.isdisjoint(codec.encode("a</s>b"))

    def test_an_unknown_token_that_is_the_end_token_too(self) -> None:
        backend = Tokenizer(models.BPE({"<eos>": 0, "a": 1, "b": 2, "?": 3}, [], unk_token="<eos>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<eos>", eos_token="<eos>")
        assert plain(tokenizer, "acb") == (1, 0, 2)
        assert TextCodec(tokenizer).encode("acb") == (1, 3, 2)

    def test_a_vocabulary_without_a_question_mark_refuses_what_it_does_not_know(self) -> None:
        codec = TextCodec(unigram([*"ab"]))
        assert codec.decode(codec.encode("abba")) == "abba"
        with pytest.raises(PromptError, match=r"holds '\?'.*special token '<unk>'; remove it from the text"):
            codec.encode("abc")

    def test_a_character_that_is_a_special_token_is_refused(self) -> None:
        codec = TextCodec(tilde_tokenizer())
        assert codec.decode(codec.encode("about 30 <|pad|>")) == "about 30 <|pad|>"
        with pytest.raises(PromptError, match=r"holds '~'.*special token '~'; remove it from the text"):
            codec.encode("about ~30")

    def test_a_special_character_that_bytes_can_spell_is_spelt(self) -> None:
        codec = TextCodec(byte_level(special=["※"]))
        assert codec.decode(codec.encode("※ 12")) == "※ 12"
        assert codec.reserved.isdisjoint(codec.encode("※ 12"))

    def test_words_taken_whole_stay_whole(self) -> None:
        tokenizer = llama3_tokenizer()
        assert TextCodec(tokenizer).encode("a rectangular")[-1:] == tuple(named(tokenizer, "Ġrectangular"))

    def test_truncation_and_padding_of_the_tokenizer_play_no_part(self) -> None:
        tokenizer = altered(byte_bpe_tokenizer())
        expected = TextCodec(tokenizer).encode(ORDINARY)
        tokenizer.backend_tokenizer.enable_truncation(4)
        tokenizer.backend_tokenizer.enable_padding(length=500, pad_id=0)
        codec = TextCodec(tokenizer)
        assert codec.encode(ORDINARY) == expected
        assert codec.encode_fixed(ORDINARY) == expected

    def test_a_tokenizer_written_in_python(self) -> None:
        tokenizer = ByT5Tokenizer()
        codec = TextCodec(tokenizer)
        text = "a</s>b<extra_id_0>ü<pad>"
        assert codec.reserved.isdisjoint(codec.encode(text))
        assert codec.decode(codec.encode(text)) == text
        assert codec.encode_fixed("a</s>")[-1] == tokenizer.eos_token_id


class TestFixedText:
    def test_special_tokens_are_meant(self) -> None:
        tokenizer = chatml_tokenizer()
        codec = TextCodec(tokenizer)
        text = "<|im_start|>user\n<think>"
        assert codec.encode_fixed(text) == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert named(tokenizer, "<|im_start|>", "<think>") <= set(codec.encode_fixed(text))
        codec.encode("user text in between switches the backend")
        assert codec.encode_fixed(text + "!")[:-1] == codec.encode_fixed(text)

    def test_begin_token_is_not_added(self) -> None:
        codec = TextCodec(llama2_tokenizer())
        assert codec.encode_fixed("<s>[INST]").count(1) == 1
        assert codec.encode_fixed("[INST]").count(1) == 0


class TestFirstIds:
    @pytest.mark.parametrize(
        ("build", "names"),
        [
            (byte_bpe_tokenizer, []),
            (chatml_tokenizer, []),
            (neox_tokenizer, []),
            (unigram_tokenizer, []),
            (llama2_tokenizer, ["<s>"]),
            (llama3_tokenizer, ["<|begin_of_text|>"]),
            (gemma_tokenizer, ["<bos>"]),
        ],
    )
    def test_what_the_tokenizer_puts_first(self, build, names) -> None:
        tokenizer = build()
        assert TextCodec(tokenizer).first_ids == tuple(tokenizer.convert_tokens_to_ids(names))

    def test_a_prefix_of_two_tokens_and_an_end_token_behind(self) -> None:
        tokenizer = byte_level(special=["[gMASK]", "<sop>", "</s>"])
        two = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[gMASK]", "<sop>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="[gMASK] <sop> $A </s>", special_tokens=two
        )
        assert TextCodec(tokenizer).first_ids == tuple(i for _, i in two[:2])


class TestDecode:
    def test_special_tokens_are_left_out(self) -> None:
        codec = TextCodec(chatml_tokenizer())
        ids = codec.encode_fixed("<|im_start|>hello<|im_end|>")
        assert len(ids) > 2
        assert codec.decode(ids) == "hello"

    def test_spaces_before_punctuation_stay_whatever_the_tokenizer_is_set_to(self) -> None:
        tokenizer = altered(unigram_tokenizer(), clean_up_tokenization_spaces=True)
        codec = TextCodec(tokenizer)
        ids = codec.encode("do n't mind .")
        assert tokenizer.decode(list(ids)) == "don't mind.", "the setting does something"
        assert codec.decode(ids) == "do n't mind ."


class TestTokenId:
    def test_by_name(self) -> None:
        codec = TextCodec(chatml_tokenizer())
        assert codec.token_id("<|im_end|>") == codec.tokenizer.eos_token_id

    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_what_the_vocabulary_lacks(self, name: str) -> None:
        codec = TextCodec(TOKENIZERS[name]())
        assert codec.token_id("<no such token>") is None
        assert codec.token_id("") is None

    def test_the_unknown_token_itself(self) -> None:
        for build in (llama2_tokenizer, neox_tokenizer):
            tokenizer = build()
            assert TextCodec(tokenizer).token_id(tokenizer.unk_token) == tokenizer.unk_token_id


def test_threads_that_share_a_tokenizer_get_what_one_thread_gets() -> None:
    """Encoding switches the backend in place: texts and fixed parts at once must not see each other's switch."""
    tokenizer = altered(llama2_tokenizer())
    texts = [f"text {i} </s> of <s> a user" for i in range(40)]
    fixed = [f"<s>[INST] part {i} [/INST] </s>" for i in range(40)]
    alone = TextCodec(llama2_tokenizer())
    expected = [(alone.encode(t), alone.encode_fixed(f)) for t, f in zip(texts, fixed, strict=True)]

    def work(_: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        codec = TextCodec(tokenizer)
        assert codec.first_ids == (1,)
        return [(codec.encode(t), codec.encode_fixed(f)) for t, f in zip(texts, fixed, strict=True)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(result == expected for result in pool.map(work, range(16)))
    finally:
        sys.setswitchinterval(interval)


class TestIncrementalText:
    @staticmethod
    def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
        stream = IncrementalText(TextCodec(tokenizer))
        return [*(stream.push([i]) for i in ids), stream.push([], final=True)]

    def test_a_character_comes_out_when_it_is_whole(self) -> None:
        tokenizer = byte_level()
        ids = TextCodec(tokenizer).encode("a😀世b")
        assert self.pieces(tokenizer, ids) == ["a", "", "", "", "😀", "", "", "世", "b", ""]

    def test_bytes_of_a_sentencepiece_vocabulary(self) -> None:
        tokenizer = llama2_tokenizer()
        ids = TextCodec(tokenizer).encode("😀😀 ok")
        assert [p for p in self.pieces(tokenizer, ids) if p] == ["😀", "😀", " o", "k"]

    def test_blanks_between_words_stay_and_the_first_one_goes(self) -> None:
        tokenizer = llama2_tokenizer()
        ids = TextCodec(tokenizer).encode("the  dog and the dog")
        assert tokenizer.convert_ids_to_tokens(ids[0]).startswith("▁")
        found = self.pieces(tokenizer, ids)
        assert found[0].startswith("t")
        assert "".join(found) == "the  dog and the dog"

    def test_several_ids_at_once(self) -> None:
        tokenizer = gpt2_tokenizer()
        ids = TextCodec(tokenizer).encode("Hello, 世界 of 👍🏽!")
        stream = IncrementalText(TextCodec(tokenizer))
        assert stream.push(ids[:2]) == "Hello,"
        assert stream.push(ids[2:], final=True) == " 世界 of 👍🏽!"

    def test_special_tokens_show_nothing(self) -> None:
        tokenizer = llama2_tokenizer()
        codec = TextCodec(tokenizer)
        ids = [*codec.encode("the"), tokenizer.eos_token_id, *codec.encode("dog")]
        assert "".join(self.pieces(tokenizer, ids)) == codec.decode(ids) == "the dog"

    def test_an_unfinished_character_comes_last_as_a_replacement(self) -> None:
        tokenizer = byte_level()
        ids = TextCodec(tokenizer).encode("hi😀")[:-1]
        assert self.pieces(tokenizer, ids) == ["h", "i", "", "", "", "\ufffd"]

    def test_a_replacement_character_in_the_text_is_not_lost(self) -> None:
        tokenizer = byte_level()
        ids = TextCodec(tokenizer).encode("a\ufffdb\ufffd")
        assert "".join(self.pieces(tokenizer, ids)) == "a\ufffdb\ufffd"

    def test_only_a_short_window_is_decoded_again(self) -> None:
        lengths: list[int] = []

        class Counting(TextCodec):
            def decode(self, ids: Sequence[int]) -> str:
                lengths.append(len(ids))
                return super().decode(ids)

        codec = Counting(byte_bpe_tokenizer())
        ids = codec.encode(ORDINARY * 30)
        stream = IncrementalText(codec)
        assert "".join([*(stream.push([i]) for i in ids), stream.push([], final=True)]) == ORDINARY * 30
        assert len(ids) > 1000
        assert max(lengths) <= 12
