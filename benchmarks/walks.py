"""A model of any size whose every next token is known: random weights, and a walk that it is made to follow.

Speed needs no training, and what is written must not change with the arithmetic. So the output is pushed to the
successor of each position's own token, by one cycle through the whole vocabulary: any decoder that is right writes the
same, in any precision and any batch, however it passes positions. The work of the model stays as it is; the push adds
a few elementwise operations to each pass of every decoder alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from aligner.correct.ticket import Request

RandomSize = Literal["tiny", "0.5b"]
_SHAPES: dict[RandomSize, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 2, "num_key_value_heads": 1},
    # As Qwen2-0.5B.
    "0.5b": {"vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
             "num_attention_heads": 14, "num_key_value_heads": 2},
}  # fmt: skip
_DIGIT = 64  # every precision holds whole numbers below it
_DIGITS = 3
_PUSH = 1e4


class Walk:
    """A model of Qwen2's shape that writes `successor[token]` behind every token.

    Each position's token travels beside its hidden state: three of its numbers, just before the output layer, are the
    token's digits. So the right one is found whichever positions a decoder asks the logits of.
    """

    def __init__(self, size: RandomSize, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.size = size
        config = Qwen2Config(**_SHAPES[size], max_position_embeddings=4096, tie_word_embeddings=True)
        torch.manual_seed(seed)
        self.model: Any = Qwen2ForCausalLM(config).to(device=device, dtype=dtype).eval()
        self.model.generation_config.eos_token_id = self.model.generation_config.pad_token_id = None
        order = torch.randperm(config.vocab_size, generator=torch.Generator().manual_seed(seed))
        successor = torch.empty_like(order)
        successor[order] = order.roll(-1)
        self.successor: list[int] = successor.tolist()
        self._successor = successor.to(device)
        self._scale = _DIGIT ** torch.arange(_DIGITS, device=device)
        self._tokens: Tensor | None = None
        self.model.model.register_forward_pre_hook(self._read, with_kwargs=True)
        self.model.model.register_forward_hook(self._mark)
        self.model.get_output_embeddings().register_forward_hook(self._push)

    def from_token(self, token: int, length: int) -> list[int]:
        """What the model writes behind a token."""
        found = [self.successor[token]]
        while len(found) < length:
            found.append(self.successor[found[-1]])
        return found

    def requests(self, count: int, edited: float, *, question: int, length: int, seed: int) -> list[Request]:
        """Corrections of a fixed length whose answers differ from them in a share of the tokens.

        Args:
            edited: share of the tokens that are replaced, left out or preceded by another, a third each.
            question: random tokens before the answer in the prompt.
        """
        random, made = Random(f"{seed}:{edited}"), []
        for _ in range(count):
            *asked, last = random.sample(range(len(self.successor)), question)
            target = self.from_token(last, length)
            answer = _edited(target, edited, random, len(self.successor))
            made.append(
                Request(prompt=(*asked, *answer, last), max_new_tokens=length, stop_ids=frozenset(), answer=answer)
            )
        return made

    def written(self, request: Request) -> list[int]:
        """What every decoder must write for a request."""
        return self.from_token(request.prompt[-1], request.max_new_tokens)

    def _read(self, _module: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        self._tokens = inputs["input_ids"] if "input_ids" in inputs else args[0]

    def _mark(self, _module: Any, _args: Any, output: Any) -> None:
        assert self._tokens is not None
        hidden = output.last_hidden_state
        hidden[..., :_DIGITS] = (self._tokens[..., None] // self._scale % _DIGIT).to(hidden.dtype)

    def _push(self, _head: Any, args: tuple[Tensor, ...], logits: Tensor) -> None:
        tokens = (args[0][..., :_DIGITS].long() * self._scale).sum(dim=-1)
        logits.scatter_(-1, self._successor[tokens][..., None], _PUSH)


def _edited(tokens: Sequence[int], share: float, random: Random, vocabulary: int) -> tuple[int, ...]:
    places = set(random.sample(range(len(tokens)), round(share * len(tokens))))
    found: list[int] = []
    for place, token in enumerate(tokens):
        edit = random.choice(("replaced", "left out", "preceded")) if place in places else None
        if edit in ("replaced", "preceded"):
            found.append(random.randrange(vocabulary))
        if edit in (None, "preceded"):
            found.append(token)
    return tuple(found)
