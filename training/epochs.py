"""The epoch by which data draw: told by the `Trainer`, and not changed by how long a run is to be."""

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import has_length


class EpochCallback(TrainerCallback):
    """Tells data or a collator the epoch, at its beginning and where it is entered again in its middle.

    Of a stream, which has no length, `Trainer` counts epochs in shares of `max_steps`, which may be raised: there it is
    told how often this run began the stream before.

    Args:
        told: What has `set_epoch`: an `AugmentingCollator`, `AudioCrops`, or another.
    """

    def __init__(self, told: Any):
        self.told = told
        self._num_begun = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count from the start."""
        self._num_begun = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Set the epoch, before the data of it are read."""
        is_stream = train_dataloader is not None and not has_length(train_dataloader)
        self.told.set_epoch(self._num_begun if is_stream else int(state.epoch or 0))
        self._num_begun += 1
