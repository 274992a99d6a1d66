"""The one thin subclass of TRL's SFTTrainer: the order of rows, and a loss that is quick on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from aligner.train.edited import IGNORED, unmark, weight_at
from aligner.train.head import head_at
from aligner.train.order import LengthBuckets

_SHORT = 320  # tokens up to which attention written out is quicker on a CPU than its fused kernel in bf16


def trainer_class() -> Any:
    """The subclass; made on demand, because importing TRL takes seconds."""
    from trl import SFTTrainer

    class RowTrainer(SFTTrainer):
        """SFTTrainer on rows of ids with the columns input_ids, labels and length.

        `edit_weight`: what marked labels weigh at the first step (`edited.weight_at`).
        """

        edit_weight = 1.0

        def _get_train_sampler(self, train_dataset: Any = None) -> LengthBuckets:
            # The data loader's own copy has only the model's columns left.
            return LengthBuckets(self.train_dataset["length"][:], self.args.per_device_train_batch_size, self.args.seed)

        def compute_loss(
            self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """TRL's loss; on a CPU the same number by a shorter way.

            TRL's chunked kernel saves an accelerator's memory by computing logits twice, in fp32 where there is no
            Triton: on a CPU that is half of a small model's step. Here the output layer runs once, in the model's
            arithmetic, on the positions that have a label; and so on any device where edited tokens weigh more, which
            TRL's kernel cannot do. A mixture of experts, whose router has a loss too, is left to TRL.
            """
            plain, marked = unmark(inputs["labels"])
            elsewhere = inputs["input_ids"].device.type != "cpu" and self.edit_weight == 1
            if return_outputs or elsewhere or self.aux_loss_enabled:
                inputs = {**inputs, "labels": plain}
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels = plain[:, 1:]
            rows, columns = (labels != IGNORED).nonzero(as_tuple=True)
            whole = self.accelerator.unwrap_model(model)
            with head_at(whole, rows, columns), _attention(whole.config, inputs["input_ids"], self.args):
                output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
            losses = cross_entropy(output.logits[0].float(), labels[rows, columns], reduction="none")
            if self.edit_weight != 1:
                weight = weight_at(self.edit_weight, self.state.global_step, self.state.max_steps)
                losses = losses.where(~marked[:, 1:][rows, columns], losses * weight)
            total = losses.sum()
            loss = total / (len(rows) if num_items_in_batch is None else num_items_in_batch)
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes  # it counts every process's tokens; DDP takes the mean
            if self.model.training:
                tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum()
                self._total_train_tokens += int(tokens)
            self._metrics["train" if self.model.training else "eval"]["num_tokens"] = [self._total_train_tokens]
            return loss

    return RowTrainer


@contextmanager
def _attention(config: Any, ids: Tensor, arguments: Any) -> Iterator[None]:
    # A CPU's fused kernel takes two to four times as long for the backward pass in bf16 on short rows. Not with
    # activations that are computed twice: the second time is out of this context's reach and must do the same.
    before = config._attn_implementation
    short = ids.device.type == "cpu" and ids.shape[1] <= _SHORT
    if before == "sdpa" and arguments.bf16 and short and not arguments.activation_checkpointing:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
