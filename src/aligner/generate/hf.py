"""Hugging Face causal language models: loading them with clear errors, and generating with them in bulk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import torch

from aligner.errors import CheckpointError, ConfigError, GenerationError, OutOfMemoryError, PromptError
from aligner.prompts import question_text
from aligner.tokens import encodable
from aligner.types import Chat, Completion, Sampling, Usage

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DEFAULT_NEW_TOKENS = 512
Quantize = Literal["none", "int8", "int4"]
NEUTRAL: Mapping[str, Any] = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0, "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "sequence_bias": None, "forced_bos_token_id": None, "forced_eos_token_id": None, "min_length": 0,
    "min_new_tokens": 0, "exponential_decay_length_penalty": None, "num_beams": 1, "min_p": 0.0, "typical_p": 1.0,
    "top_h": None, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "guidance_scale": 1.0, "watermarking_config": None,
}  # fmt: skip
"""What of a generation config changes the tokens, beside a `Sampling`; and the values with which it does not."""


def load_causal_lm(
    name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", quantize: Quantize = "none"
) -> tuple[Any, Any]:
    """Load a model in eval mode and its tokenizer, from a directory or by Hub id.

    `device=None` takes the accelerator where there is one; `dtype="auto"` keeps what the checkpoint was saved in.
    `quantize` keeps the weights of the linear layers in 8 bits (LLM.int8) or 4 (NF4), by bitsandbytes.

    Raises:
        CheckpointError: no model or no tokenizer there, or one that cannot be read.
        ConfigError: the device cannot be used, or bitsandbytes, which quantising takes, is missing.
        OutOfMemoryError: the model does not fit the device.
    """
    from transformers import AutoModelForCausalLM

    place = device or default_device()
    options = {} if quantize == "none" else {**_quantized(quantize, place, dtype), "device_map": {"": place}}
    tokenizer = load_tokenizer(name)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            str(name), dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True, **options
        )
    except (torch.OutOfMemoryError, MemoryError) as e:
        raise OutOfMemoryError(f"{name}: the model does not fit into the memory of {place}") from e
    except Exception as e:
        raise CheckpointError(f"{name}: the model cannot be loaded ({_first_line(e)})") from e
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise CheckpointError(f"{name}: not all weights of a language model ({missing} would be random); give a causal "
                              "language model's checkpoint")  # fmt: skip
    if weight_bits(model.config) in ("int8", "int4"):
        return model.eval(), tokenizer  # it stands on its device already, and may not be moved
    try:
        return model.to(place).eval(), tokenizer
    except (torch.OutOfMemoryError, MemoryError) as e:
        raise OutOfMemoryError(f"{name}: the model does not fit into the memory of {place}") from e
    except (RuntimeError, AssertionError) as e:
        raise ConfigError(f"the device '{device}' cannot be used ({_first_line(e)}); give cpu, cuda or cuda:N") from e


def _quantized(quantize: Quantize, place: str, dtype: Dtype) -> dict[str, Any]:
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"quantize is {quantize}, and bitsandbytes is missing; pip install 'aligner[quant]'")
    from transformers import BitsAndBytesConfig

    if quantize == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    # Without a word of it 4-bit layers compute in float32, also between layers of half the bits.
    if dtype == "auto":
        dtype = "float32" if place.startswith("cpu") else "bfloat16"
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                      bnb_4bit_use_double_quant=True,
                                                      bnb_4bit_compute_dtype=getattr(torch, dtype))}  # fmt: skip


def weight_bits(config: Any) -> str:
    """How the weights are kept, by a model's configuration: none, int8, int4, or how another method calls itself."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return "none"
    values = found if isinstance(found, dict) else found.to_dict()
    if values.get("load_in_8bit") or values.get("load_in_4bit"):
        return "int8" if values.get("load_in_8bit") else "int4"
    return str(getattr(values.get("quant_method"), "value", values.get("quant_method") or "unknown"))


def stored_bits(name: str | Path) -> str:
    """The same for a model that is not loaded.

    Raises:
        CheckpointError: there is none.
    """
    return weight_bits(_load_config(name))


def load_tokenizer(name: str | Path) -> Any:
    """Load a tokenizer from a directory or by Hub id.

    Raises:
        CheckpointError: there is none.
    """
    from transformers import AutoTokenizer

    _check_place(name)
    try:
        return AutoTokenizer.from_pretrained(str(name))
    except Exception as e:
        raise CheckpointError(f"{name}: the tokenizer cannot be loaded ({_first_line(e)})") from e


def default_device() -> str:
    """The accelerator where there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"


def context_length(model: Any) -> int:
    """Tokens that prompt and completion may have together."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)


def steered(model: Any) -> list[str]:
    """What a model's own generation config sets that changes the tokens of `generate()`."""
    values = {name: getattr(model.generation_config, name, None) for name in NEUTRAL}
    return [name for name, value in values.items() if value not in (None, NEUTRAL[name], [], {})]


def model_context(name: str | Path) -> int:
    """The same for a model that is not loaded, from its configuration.

    Raises:
        CheckpointError: there is none.
    """
    return int(getattr(_load_config(name).get_text_config(), "max_position_embeddings", None) or 1 << 30)


def model_vocabulary(name: str | Path) -> int | None:
    """Ids that a model has embeddings for, from its configuration; None where that does not say.

    Raises:
        CheckpointError: there is none.
    """
    size = getattr(_load_config(name).get_text_config(), "vocab_size", None)
    return None if size is None else int(size)


def has_experts(name: str | Path) -> bool:
    """Whether a model's configuration names experts whose router has a loss of its own.

    Raises:
        CheckpointError: there is none.
    """
    config = _load_config(name).get_text_config()
    return hasattr(config, "output_router_logits") and bool(getattr(config, "router_aux_loss_coef", 0.0))


def _load_config(name: str | Path) -> Any:
    from transformers import AutoConfig

    _check_place(name)
    try:
        return AutoConfig.from_pretrained(str(name))
    except Exception as e:
        raise CheckpointError(f"{name}: the configuration cannot be loaded ({_first_line(e)})") from e


def _check_place(name: str | Path) -> None:
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise CheckpointError(f"{name}: no model in this directory (no config.json); give the directory of a "
                                  "transformers checkpoint or a Hub id")  # fmt: skip
    elif path.exists():
        raise CheckpointError(f"{name}: a file; give the directory of a transformers checkpoint or a Hub id")
    elif isinstance(name, Path) or str(name).startswith((".", "/", "~")) or str(name).count("/") > 1:
        raise CheckpointError(f"{name}: no such directory; give the directory of a transformers checkpoint or a Hub id")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class HFGenerator:
    """An upstream that runs in process through `generate()`, in batches of similar length.

    Args:
        model, tokenizer: as `load_causal_lm` gives them.
        name: how reports call it.
        batch_size: prompts per batch; halved when memory runs out.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str, batch_size: int = 16) -> None:
        self.model, self.tokenizer, self.name, self.batch_size = model, tokenizer, name, batch_size

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", batch_size: int = 16
    ) -> Self:
        """Load a model from a directory or by Hub id.

        Raises:
            CheckpointError: no model there.
        """
        model, tokenizer = load_causal_lm(name, device=device, dtype=dtype)
        return cls(model, tokenizer, name=Path(name).name, batch_size=batch_size)

    async def generate(self, chats: Sequence[Chat], sampling: Sampling) -> AsyncIterator[tuple[int, Completion]]:
        """Answer every chat; one that the template refuses or the context does not hold is a failed completion.

        Raises:
            GenerationError: the model failed on a batch.
        """
        prompts: list[tuple[int, list[int]]] = []
        for i, chat in enumerate(chats):
            try:
                ids = self.prompt_ids(chat)
            except PromptError as e:
                yield i, Completion(text="", finish_reason="error", error=f"{self.name}: {e}")
                continue
            if len(ids) < context_length(self.model):
                prompts.append((i, ids))
            else:
                error = f"the prompt has {len(ids)} tokens; this model takes {context_length(self.model)}"
                yield i, Completion(text="", finish_reason="error", error=error)
        prompts.sort(key=lambda item: len(item[1]))
        for batch in self._batches(prompts, sampling.max_new_tokens or DEFAULT_NEW_TOKENS):
            for i, completion in await asyncio.to_thread(lambda rows: list(self._answer(rows, sampling)), batch):
                yield i, completion

    def prompt_ids(self, chat: Chat) -> list[int]:
        """A chat's ids, up to where the answer begins.

        Raises:
            PromptError: the tokenizer's chat template refuses the conversation.
        """
        from jinja2 import TemplateError

        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(encodable(question_text(chat)))["input_ids"])
        messages = [{"role": m.role, "content": encodable(m.content)} for m in chat]
        try:
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as e:
            roles = ", ".join(m.role for m in chat)
            raise PromptError(f"the chat template takes no conversation of {roles} ({e})") from None
        return list(encoded["input_ids"])

    def _batches(self, prompts: Sequence[tuple[int, list[int]]], most: int) -> Iterator[list[tuple[int, list[int]]]]:
        """Prompts by length, so many at a time; those that leave less room than is wanted only with others as long, for
        `generate()` gives all rows of a batch the room of the longest."""
        batch: list[tuple[int, list[int]]] = []
        for item in prompts:
            tight = context_length(self.model) - len(item[1]) < most
            if batch and (len(batch) == self.batch_size or (tight and len(item[1]) > len(batch[-1][1]))):
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _answer(self, batch: list[tuple[int, list[int]]], sampling: Sampling) -> Iterator[tuple[int, Completion]]:
        outputs: list[list[int]] | None = None
        try:
            outputs = self._run([ids for _, ids in batch], sampling)
        except (torch.OutOfMemoryError, MemoryError) as e:
            if len(batch) == 1:
                raise GenerationError(
                    f"{self.name}: not enough memory for one prompt of {len(batch[0][1])} tokens"
                ) from e
        except RuntimeError as e:
            raise GenerationError(f"{self.name}: generation failed ({_first_line(e)})") from e
        if outputs is None:  # only here is the error gone, and with it what the failed pass held
            middle = len(batch) // 2
            yield from self._answer(batch[:middle], sampling)
            yield from self._answer(batch[middle:], sampling)
            return
        stops = self.stop_ids()
        for (i, prompt), output in zip(batch, outputs, strict=True):
            end = next((k for k, token in enumerate(output) if token in stops), None)
            written = output if end is None else output[:end]
            text = self.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            usage = Usage(prompt_tokens=len(prompt), completion_tokens=len(written))
            yield i, Completion(text=text, finish_reason="length" if end is None else "stop", usage=usage)

    def stop_ids(self) -> set[int]:
        """The ids that end an answer."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return {i for i in [*ids, self.tokenizer.eos_token_id] if i is not None}

    @torch.inference_mode()
    def _run(self, prompts: list[list[int]], sampling: Sampling) -> list[list[int]]:
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id or 0
        device = self.model.device
        # Left padding; the mask comes from lengths, for the pad id may be an ordinary or the end token's.
        tokens = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        room = context_length(self.model) - width
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
        if not sampling.greedy:
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(sampling.seed)
            output = self.model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=min(room, sampling.max_new_tokens or DEFAULT_NEW_TOKENS),
                pad_token_id=pad,
                eos_token_id=sorted(self.stop_ids()) or None,
                **how,
            )
        rows: list[list[int]] = output[:, width:].tolist()
        return rows
