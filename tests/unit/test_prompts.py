"""PromptFormat: presets, templates of all sorts, saved and read back, role lines, flags, dropped turns."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner.errors import CheckpointError, PromptError
from aligner.prompts import INSTRUCTION, REQUEST, EncodedPrompt, PromptFormat, question_text
from aligner.tokens import TextCodec
from aligner.types import Chat, Message, as_chat
from tests.models import (
    TOKENIZERS,
    altered,
    byte_bpe_tokenizer,
    chatml_tokenizer,
    gemma_tokenizer,
    gpt2_tokenizer,
    llama2_tokenizer,
    llama3_tokenizer,
    unigram_tokenizer,
)

PRESETS = ["chat", "aligner-v1", "aligner-repo"]
PUBLISHED = ["aligner-v1", "aligner-repo"]


def turns(*contents: str, system: str | None = None) -> Chat:
    """User and assistant by turns, the user last."""
    roles = ["user" if (len(contents) - i) % 2 else "assistant" for i in range(len(contents))]
    chat = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    return as_chat([*([{"role": "system", "content": system}] if system is not None else []), *chat])


def shown(layout: PromptFormat, codec: TextCodec, chat: Chat, answer: str, **options: Any) -> str:
    """The prompt as text, special tokens included."""
    return str(codec.tokenizer.decode(list(layout.encode(codec, chat, answer, **options).ids)))


def templated(template: str, tokenizer: Any = None) -> Any:
    return altered(tokenizer or byte_bpe_tokenizer(), chat_template=template)


class TestPreset:
    def test_unknown_name_names_the_nearest(self) -> None:
        with pytest.raises(PromptError, match=r"no prompt format is called 'aligner-v2'; did you mean 'aligner-v1'\?"):
            PromptFormat.preset("aligner-v2", byte_bpe_tokenizer())
        with pytest.raises(PromptError, match="known: aligner-v1, aligner-repo, chat"):
            PromptFormat.preset("?", byte_bpe_tokenizer())

    def test_chat_needs_a_template(self) -> None:
        with pytest.raises(PromptError, match=r"no chat template.*aligner-v1 or aligner-repo"):
            PromptFormat.preset("chat", templated(None))  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_formats_need_an_end_token(self, name: str) -> None:
        with pytest.raises(PromptError, match=f"no end token, which '{name}' needs; set eos_token"):
            PromptFormat.preset(name, altered(byte_bpe_tokenizer(), eos_token=None))

    @pytest.mark.parametrize("name", PUBLISHED)
    @pytest.mark.parametrize("build", TOKENIZERS.values(), ids=TOKENIZERS)
    def test_published_formats_end_with_the_tokenizers_end_token(self, name: str, build) -> None:
        tokenizer = build()
        layout = PromptFormat.preset(name, tokenizer)
        assert layout.end == tokenizer.eos_token
        assert layout.end_id(TextCodec(tokenizer)) == tokenizer.eos_token_id

    def test_chat_places_instruction_and_request(self) -> None:
        layout = PromptFormat.preset("chat", chatml_tokenizer(), instruction="Be brief.", request="Now.")
        assert layout.before == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
        assert layout.between == "<|im_end|>\n<|im_start|>assistant\n"
        assert layout.after == "<|im_end|>\n<|im_start|>user\nNow.<|im_end|>\n<|im_start|>assistant\n"
        assert layout.end == "<|im_end|>"

    def test_chat_uses_the_packages_words_unless_told_otherwise(self) -> None:
        layout = PromptFormat.preset("chat", chatml_tokenizer())
        assert INSTRUCTION in layout.before
        assert REQUEST in layout.after

    def test_no_instruction_no_system_message(self) -> None:
        assert PromptFormat.preset("chat", chatml_tokenizer(), instruction="").before == "<|im_start|>user\n"
        assert PromptFormat.preset("chat", gemma_tokenizer(), instruction="").before == "<bos><start_of_turn>user\n"

    def test_no_request_is_an_empty_turn(self) -> None:
        layout = PromptFormat.preset("chat", chatml_tokenizer(), request="")
        assert layout.after == "<|im_end|>\n<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n"

    @pytest.mark.parametrize("build", [chatml_tokenizer, llama2_tokenizer, llama3_tokenizer, gemma_tokenizer])
    def test_instruction_and_request_that_a_template_trims(self, build) -> None:
        layout = PromptFormat.preset("chat", build(), instruction=" Be brief.\n", request="Now.\n\n")
        assert "Be brief." in layout.before
        assert "Now." in layout.after

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_formats_take_no_instruction(self, name: str) -> None:
        tokenizer = chatml_tokenizer()
        assert PromptFormat.preset(name, tokenizer, instruction="x", request="y") == PromptFormat.preset(
            name, tokenizer
        )


class TestTemplates:
    def test_system_role_refused(self) -> None:
        layout = PromptFormat.preset("chat", gemma_tokenizer(), instruction="Be brief.")
        assert layout.before == "<bos><start_of_turn>user\nBe brief.\n\n"
        assert layout.end == "<end_of_turn>", "not the tokenizer's own <eos>"

    def test_system_message_left_out_without_a_word(self) -> None:
        template = (
            "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
        layout = PromptFormat.preset("chat", templated(template), instruction="Be brief.")
        assert layout.before == "<|user|>Be brief.\n\n"

    @pytest.mark.parametrize(
        "refusal",
        [
            "{{ raise_exception('no') }}",
            "{{ 1 / messages[0].content }}",
            "{{ messages[0].content + 1 }}",
            "{{ messages[0].content.index('\\0') }}",
            "{{ messages[0].content.no_such_method() }}",
            "{{ '%d' % messages[0].content }}",
            "{{ ''.rsplit(messages[0].content)[3].strip() }}",
        ],
    )
    def test_whatever_a_template_raises(self, refusal: str) -> None:
        template = (
            "{% if messages[0].role == 'system' %}" + refusal + "{% endif %}"
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
        )
        assert PromptFormat.preset("chat", templated(template), instruction="Hm.").before == "<|user|>Hm.\n\n"

    @pytest.mark.parametrize(
        "template",
        [
            "{{ raise_exception('never') }}",
            "{% for m in messages %}{{ m.content",
            "{{ messages[-1].content }}",
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            "{% for m in messages[:-1] %}{{ m.role }}: {{ m.content }}{% endfor %}",
        ],
        ids=["raises", "syntax", "last turn only", "no answers", "all twice", "no request"],
    )
    def test_templates_that_cannot_be_used(self, template: str) -> None:
        with pytest.raises(PromptError, match=r"takes neither a system message nor .*aligner-v1 or aligner-repo"):
            PromptFormat.preset("chat", templated(template))

    @pytest.mark.parametrize(
        ("build", "end"),
        [
            (byte_bpe_tokenizer, "<|end|>"),
            (chatml_tokenizer, "<|im_end|>"),
            (llama2_tokenizer, "</s>"),
            (llama3_tokenizer, "<|eot_id|>"),
            (gemma_tokenizer, "<end_of_turn>"),
            (unigram_tokenizer, "</s>"),
            (gpt2_tokenizer, "<|endoftext|>"),
        ],
    )
    def test_end_token_is_what_the_template_puts_after_an_answer(self, build, end: str) -> None:
        assert PromptFormat.preset("chat", build()).end == end

    def test_end_token_may_follow_after_ordinary_letters(self) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }} (end)\n<|im_end|><|im_start|>{% endfor %}"
        tokenizer = altered(templated(template, chatml_tokenizer()), eos_token="<|endoftext|>")
        assert PromptFormat.preset("chat", tokenizer).end == "<|im_end|>"

    def test_no_token_after_an_answer(self) -> None:
        template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        tokenizer = templated(template)
        assert PromptFormat.preset("chat", tokenizer).end == "<|end|>", "the tokenizer's own"
        with pytest.raises(PromptError, match=r"neither the chat template nor the tokenizer.*set eos_token"):
            PromptFormat.preset("chat", altered(tokenizer, eos_token=None))

    def test_end_token_of_the_template_where_the_tokenizer_has_none(self) -> None:
        tokenizer = altered(chatml_tokenizer(), eos_token=None)
        layout = PromptFormat.preset("chat", tokenizer)
        codec = TextCodec(tokenizer)
        assert layout.end == "<|im_end|>"
        assert layout.stop_ids(codec) == {layout.end_id(codec)}

    def test_the_date_of_the_day_it_was_built_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from transformers.utils import chat_template_utils

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Clock:
                return cls(2031, 12, 24)

        tokenizer = llama3_tokenizer()
        today = PromptFormat.preset("chat", tokenizer)
        saved = json.dumps(today.to_json())
        monkeypatch.setattr(chat_template_utils, "datetime", Clock)
        later = PromptFormat.preset("chat", tokenizer)
        assert "24 Dec 2031" in later.before
        codec = TextCodec(tokenizer)
        read = PromptFormat.from_json(json.loads(saved))
        assert read == today
        assert "24 Dec 2031" not in shown(read, codec, as_chat("q"), "a")


class TestJson:
    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.parametrize("build", TOKENIZERS.values(), ids=TOKENIZERS)
    def test_there_and_back(self, name: str, build) -> None:
        layout = PromptFormat.preset(name, build())
        assert PromptFormat.from_json(json.loads(json.dumps(layout.to_json()))) == layout

    @pytest.mark.parametrize("field", ["name", "before", "between", "after", "end"])
    @pytest.mark.parametrize("value", [None, 3, ["x"]])
    def test_a_field_is_missing_or_no_text(self, field: str, value: Any) -> None:
        values: dict[str, Any] = PromptFormat.preset("chat", byte_bpe_tokenizer()).to_json()
        with pytest.raises(CheckpointError, match=f"here: the prompt's '{field}' is missing or no text"):
            PromptFormat.from_json(values | {field: value}, "here")
        del values[field]
        with pytest.raises(CheckpointError, match=f"prompt: the prompt's '{field}' is missing or no text"):
            PromptFormat.from_json(values)

    def test_a_format_of_another_version(self) -> None:
        values = PromptFormat.preset("chat", byte_bpe_tokenizer()).to_json()
        with pytest.raises(CheckpointError, match=r"here: .* no prompt format 'chat-v2'; did you mean 'chat'\?"):
            PromptFormat.from_json(values | {"name": "chat-v2"}, "here")

    def test_what_it_does_not_know_is_left_aside(self) -> None:
        layout = PromptFormat.preset("chat", byte_bpe_tokenizer())
        assert PromptFormat.from_json(layout.to_json() | {"comment": "x"}) == layout


class TestEndToken:
    def test_a_tokenizer_that_lacks_it(self) -> None:
        layout = PromptFormat.preset("chat", chatml_tokenizer())
        for build in (byte_bpe_tokenizer, llama2_tokenizer):
            codec = TextCodec(build())
            for use in (layout.end_id, layout.stop_ids, lambda c: layout.encode_correction(c, "a")):
                with pytest.raises(PromptError, match=r"no token '<\|im_end\|>'.*saved with the corrector"):
                    use(codec)

    def test_decoding_stops_at_the_formats_end_and_at_the_tokenizers(self) -> None:
        tokenizer = gemma_tokenizer()
        stops = PromptFormat.preset("chat", tokenizer).stop_ids(TextCodec(tokenizer))
        assert stops == set(tokenizer.convert_tokens_to_ids(["<end_of_turn>", "<eos>"]))


class TestQuestionText:
    def test_a_lone_user_turn_is_its_text(self) -> None:
        assert question_text(as_chat("User: hi")) == "User: hi"

    def test_several_turns_are_role_lines(self) -> None:
        assert question_text(turns("one", "two", "three\nlines", system="be kind")) == (
            "System: be kind\nUser: one\nAssistant: two\nUser: three\nlines"
        )

    def test_a_lone_turn_of_another_role_keeps_its_role(self) -> None:
        assert question_text((Message(role="system", content="be kind"),)) == "System: be kind"

    @pytest.mark.parametrize("name", PRESETS)
    def test_role_lines_stand_where_the_question_does(self, name: str) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset(name, codec.tokenizer)
        text = shown(layout, codec, turns("one", "two", "three"), "an answer")
        assert text == (
            layout.before + "User: one\nAssistant: two\nUser: three" + layout.between + "an answer" + layout.after
        )


class TestEncode:
    @pytest.mark.parametrize("build", [byte_bpe_tokenizer, chatml_tokenizer, llama3_tokenizer, gpt2_tokenizer])
    @pytest.mark.parametrize("name", PRESETS)
    def test_text_is_the_parts_in_order(self, build, name: str) -> None:
        codec = TextCodec(build())
        layout = PromptFormat.preset(name, codec.tokenizer)
        first = codec.tokenizer.decode(list(codec.first_ids)) if name != "chat" else ""
        assert shown(layout, codec, as_chat("Why? <|end|>"), "") == (
            first + layout.before + "Why? <|end|>" + layout.between + layout.after
        )

    def test_chat_parts_are_encoded_apart(self) -> None:
        """What stands in question or answer cannot melt into a fixed part."""
        codec = TextCodec(chatml_tokenizer())
        layout = PromptFormat.preset("chat", codec.tokenizer)
        ids = layout.encode(codec, as_chat("\nthe dog"), "the ").ids
        assert ids == (
            *codec.encode_fixed(layout.before),
            *codec.encode("\nthe dog"),
            *codec.encode_fixed(layout.between),
            *codec.encode("the "),
            *codec.encode_fixed(layout.after),
        )

    @pytest.mark.parametrize("name", PUBLISHED)
    @pytest.mark.parametrize("build", [llama2_tokenizer, llama3_tokenizer, gemma_tokenizer, gpt2_tokenizer])
    def test_published_formats_are_encoded_whole(self, name: str, build) -> None:
        tokenizer = build()
        codec = TextCodec(tokenizer)
        layout = PromptFormat.preset(name, tokenizer)
        question, answer = "How do I boil rice?", "Wash it first. Then wait for 10 minutes."
        whole = layout.before + question + layout.between + answer + layout.after
        assert layout.encode(codec, as_chat(question), answer).ids == tuple(tokenizer(whole)["input_ids"])

    @pytest.mark.parametrize("name", PUBLISHED)
    @pytest.mark.parametrize("build", [llama2_tokenizer, llama3_tokenizer, gemma_tokenizer, gpt2_tokenizer])
    @pytest.mark.parametrize("correction", ["Wash it twice.", " Wash", "\nThe dog", "世界", "3 + 4"])
    def test_published_corrections_join_as_in_the_whole_text(self, name: str, build, correction: str) -> None:
        tokenizer = build()
        codec = TextCodec(tokenizer)
        layout = PromptFormat.preset(name, tokenizer)
        whole = layout.before + "the dog" + layout.between + "the fox" + layout.after + correction
        prompt = layout.encode(codec, as_chat("the dog"), "the fox").ids
        completion = layout.encode_correction(codec, correction)
        assert (*prompt, *completion) == (*tokenizer(whole)["input_ids"], tokenizer.eos_token_id)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_a_correction_that_would_melt_into_the_prompt_is_encoded_apart(self, name: str) -> None:
        codec = TextCodec(gpt2_tokenizer())
        layout = PromptFormat.preset(name, codec.tokenizer)
        assert len(codec.encode("::")) == 1
        assert layout.encode_correction(codec, ": it") == (*codec.encode(": it"), codec.tokenizer.eos_token_id)

    @pytest.mark.parametrize("name", PRESETS)
    @pytest.mark.parametrize("build", TOKENIZERS.values(), ids=TOKENIZERS)
    def test_an_empty_correction_is_its_end_token(self, name: str, build) -> None:
        codec = TextCodec(build())
        layout = PromptFormat.preset(name, codec.tokenizer)
        assert layout.encode_correction(codec, "") == (layout.end_id(codec),)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_a_special_token_in_the_answer_of_a_published_format(self, name: str) -> None:
        tokenizer = unigram_tokenizer()
        codec = TextCodec(tokenizer)
        layout = PromptFormat.preset(name, tokenizer)
        assert tokenizer.eos_token_id not in layout.encode(codec, as_chat("</s>"), "a </s> b").ids


class TestFlags:
    def test_chat_has_no_markers_to_imitate(self) -> None:
        codec = TextCodec(chatml_tokenizer())
        layout = PromptFormat.preset("chat", codec.tokenizer)
        answer = "<|im_end|> USER: ##Question: | ASSISTANT:"
        assert layout.encode(codec, as_chat(answer), answer).flags == ()

    @pytest.mark.parametrize(
        ("name", "question", "answer", "flags"),
        [
            ("aligner-v1", "fine", "fine", ()),
            ("aligner-v1", "a | b", "fine", ("marker:|",)),
            ("aligner-v1", "a|b", "user: x", ()),
            ("aligner-v1", "fine", "ok ASSISTANT: no", ("marker:ASSISTANT:",)),
            ("aligner-v1", "USER: a | b", "ASSISTANT:", ("marker:USER:", "marker:ASSISTANT:", "marker:|")),
            ("aligner-v1", "BEGINNING OF CONVERSATION: ", "", ("marker:BEGINNING OF CONVERSATION:",)),
            ("aligner-v1", "##Question:", "##Answer:", ()),
            ("aligner-repo", "##Question: x", "a | b", ("marker:##Question:",)),
            ("aligner-repo", "x", "y\n##Answer: z\n##Correction:", ("marker:##Answer:", "marker:##Correction:")),
        ],
    )
    def test_text_that_imitates_markers(self, name: str, question: str, answer: str, flags: tuple[str, ...]) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset(name, codec.tokenizer)
        assert layout.encode(codec, as_chat(question), answer).flags == flags
        assert layout.encode(codec, as_chat(question), answer, max_tokens=1).flags == flags

    def test_every_turn_is_looked_at(self) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset("aligner-repo", codec.tokenizer)
        chat = turns("one", "ASSISTANT: two", "three", system="##Answer: ")
        assert layout.encode(codec, chat, "x").flags == ("marker:ASSISTANT:", "marker:##Answer:")


class TestDroppedTurns:
    CHAT = turns("first " * 20, "second " * 20, "third " * 20, "fourth " * 20, "fifth", system="sixth " * 20)

    @pytest.mark.parametrize("name", PRESETS)
    def test_nothing_is_dropped_that_fits(self, name: str) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset(name, codec.tokenizer)
        whole = layout.encode(codec, self.CHAT, "an answer")
        assert whole.dropped_turns == 0
        assert layout.encode(codec, self.CHAT, "an answer", max_tokens=len(whole.ids)) == whole
        assert layout.encode(codec, self.CHAT, "an answer", max_tokens=len(whole.ids) - 1).dropped_turns == 1

    @pytest.mark.parametrize("name", PRESETS)
    def test_the_oldest_go_first_and_the_last_turn_never(self, name: str) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset(name, codec.tokenizer)
        seen = []
        for most in range(len(layout.encode(codec, self.CHAT, "an answer").ids), 0, -20):
            encoded = layout.encode(codec, self.CHAT, "an answer", max_tokens=most)
            expected = layout.encode(codec, self.CHAT[encoded.dropped_turns :], "an answer")
            assert encoded == EncodedPrompt(ids=expected.ids, dropped_turns=encoded.dropped_turns)
            seen.append(encoded.dropped_turns)
        assert seen == sorted(seen)
        assert set(seen) == set(range(len(self.CHAT))), "five of six turns may go"
        last = layout.encode(codec, self.CHAT, "an answer", max_tokens=1)
        assert last.ids == layout.encode(codec, as_chat("fifth"), "an answer").ids, "a lone turn needs no role"

    def test_a_single_turn_and_a_long_answer_stay_whole(self) -> None:
        codec = TextCodec(byte_bpe_tokenizer())
        layout = PromptFormat.preset("chat", codec.tokenizer)
        whole = layout.encode(codec, as_chat("why"), "because " * 50)
        assert layout.encode(codec, as_chat("why"), "because " * 50, max_tokens=10) == whole

    @pytest.mark.parametrize("build", [byte_bpe_tokenizer, llama2_tokenizer, unigram_tokenizer])
    @pytest.mark.parametrize("name", PRESETS)
    @settings(max_examples=60, deadline=None)
    @given(
        contents=st.lists(st.text(st.sampled_from("ab \n<s/>:世"), max_size=30), min_size=1, max_size=7),
        answer=st.text(max_size=10),
        room=st.floats(0, 1.1),
    )
    def test_no_more_is_dropped_than_needed(
        self, build, name: str, contents: list[str], answer: str, room: float
    ) -> None:
        codec = TextCodec(build())
        layout = PromptFormat.preset(name, codec.tokenizer, instruction="i", request="r")
        chat = turns(*contents)
        whole = len(layout.encode(codec, chat, answer).ids)
        least = len(layout.encode(codec, chat[-1:], answer).ids)
        most = max(1, least + round((whole - least) * room))
        encoded = layout.encode(codec, chat, answer, max_tokens=most)
        dropped = encoded.dropped_turns
        assert len(encoded.ids) <= most or dropped == len(chat) - 1
        assert encoded.ids == layout.encode(codec, chat[dropped:], answer).ids
        if dropped:
            assert len(layout.encode(codec, chat[dropped - 1 :], answer).ids) > most
