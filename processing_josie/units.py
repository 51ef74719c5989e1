"""Rows of full duplex: a prompt, units of audio, and in each the decision of the model and what it writes.

A unit is as many placeholders as the Thinker's configuration says, `<|listen|>`, or `<|speak|>` and the tokens that are
written until the Talker can make all frames of the unit. The same prompt begins a session.
"""

from typing import Any

from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from ..configuration_josie import JosieThinkerConfig


class UnitsMixin(ProcessorMixin):
    """The part of [`JosieProcessor`] that knows units."""

    thinker_config: JosieThinkerConfig
    image_token: str | None

    def process_session_prompt(self, messages: list[dict[str, Any]] | None = None, images: Any = None) -> BatchFeature:
        """Make the inputs that stand before the first unit of a session.

        Args:
            messages (`list[dict]`, *optional*): What was said before, as in [`JosieProcessor.apply_chat_template`].
            images (*optional*): One or several images, which are there from the beginning.

        Returns:
            [`BatchFeature`] of one row.

        Raises:
            `ValueError`: As [`JosieProcessor.apply_chat_template`].
        """
        shown = [] if images is None else list(images) if isinstance(images, (list, tuple)) else [images]
        conversation = list(messages or [])
        if shown:
            parts = [{"type": "image", "image": image} for image in shown]
            conversation.append({"role": "user", "content": parts})
        if not conversation:
            return self(text="")
        inputs: Any = self.apply_chat_template(conversation, tokenize=True, return_dict=True)
        return inputs

    def process_shown_image(self, image: Any) -> BatchFeature:
        """Make the inputs of an image that is shown between units.

        Args:
            image: In any form that [`JosieProcessor.__call__`] takes.

        Raises:
            `ValueError`: The model takes no images.
        """
        if self.image_token is None:
            raise ValueError("`image` must be None, as this model takes no image, got one.")
        inputs = self(images=[image], text=self.image_token, add_special_tokens=False)
        inputs.pop("attention_mask", None)
        return inputs
