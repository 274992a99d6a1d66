"""A hook of LiteLLM's proxy that corrects every answer with a corrector in its own process.

LiteLLM imports it from beside its configuration. The environment variable CORRECTOR is the corrector's directory,
CORRECTOR_PATH where the libraries lie that LiteLLM's own environment does not have; its own come first.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

sys.path += os.environ["CORRECTOR_PATH"].split(os.pathsep)

from aligner.correct.aligner import Aligner


class CorrectorHook(CustomLogger):  # type: ignore[misc]
    """Corrects in the way that serves LiteLLM best: calls that overlap share the model's batch."""

    def __init__(self) -> None:
        super().__init__()
        self._aligner = Aligner.from_pretrained(os.environ["CORRECTOR"])

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> Any:
        for choice in response.choices:
            correction = await self._aligner.acorrect(data["messages"], choice.message.content)
            choice.message.content = correction.text
        return response


hook = CorrectorHook()
