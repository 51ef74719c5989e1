"""The `Trainer` of JOSIE's models: losses with parts, rows of conversations, and checkpoints that are whole models."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from ..configuration_josie.constants import IGNORE_INDEX
from ..modeling_josie.wrapped_parts import require_no_adapters, unwrap_torch
from ..processing_josie.processor import JosieProcessor
from .collator import JosieDataCollator
from .data_workers import LastingWorkersTrainer
from .loss_parts import LossPartsTrainer, accepts, check_arguments
from .whole_checkpoints import WholeCheckpoints

_LOGITS_OF_CODES = ("talker_logits", "depth_logits")


class JosieTrainer(LastingWorkersTrainer, LossPartsTrainer):
    """A `Trainer` for JOSIE, its Thinker or its Talker.

        JosieTrainer(model, arguments, train_dataset=rows, processing_class=processor).train()

    Beside what a `Trainer` does:

    * The parts of the loss are logged, and accumulated gradients are those of one batch; see [`LossPartsTrainer`].
    * Rows with `messages` go to a [`JosieDataCollator`]; `remove_unused_columns` keeps the columns that it reads, and
      the one that rows are grouped by.
    * Each checkpoint has the processor, so that it loads as a model.
    * A SIGTERM that reaches all processes of a group does not end the workers that load data.

    Args:
        model ([`JosieForConditionalGeneration`] or a part): The model to train, or a module around it or inside it, see
            `whole_model`.
        args (`TrainingArguments`, *optional*): As of `Trainer`.
        data_collator (`Callable`, *optional*): A [`JosieDataCollator`] of the processor when `None`.
        train_dataset, eval_dataset (*optional*): Rows or examples, as the collator takes them.
        processing_class ([`JosieProcessor`], *optional*): Saved with each checkpoint; the collator's when `None`.
        whole_model (`PreTrainedModel`, *optional*): The model that checkpoints hold, where `model` is a part of it (its
            Talker), or a module with a head of its own around it. The head's weights are in a file beside.
        kwargs: As of `Trainer`.

    Raises:
        `ValueError`: The model makes no losses with parts, a loss of the user's is given, one process has several
            devices, labels are smoothed where speech is learned, a part of what checkpoints hold has adapters of its
            own, or a setting would be passed over.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        whole_model: PreTrainedModel | None = None,
        **kwargs: Any,
    ):
        if processing_class is None and isinstance(data_collator, JosieDataCollator):
            processing_class = data_collator.processor
        if data_collator is None and isinstance(processing_class, JosieProcessor):
            has_units = processing_class.thinker_config.unit_frames is not None
            timing = model.get_speech_timing() if has_units and hasattr(model, "get_speech_timing") else None
            data_collator = JosieDataCollator(processing_class, speech_timing=timing)
        if args is not None:
            check_arguments(args)
        self._use_cache = getattr(getattr(model, "config", None), "use_cache", None)
        super().__init__(model, args, data_collator, train_dataset, eval_dataset, processing_class, **kwargs)
        self.prepare_parts()
        trained: Any = self.model
        has_labels = self.args.label_names is not None or self.label_names or self.can_return_loss
        if not has_labels and "text" not in trained.target_names:
            self.label_names = ["speech_codes"]  # or evaluations would have no loss
        require_labels(self.args.label_names, trained, whole_model)
        saved = unwrap_torch(trained) if whole_model is None else whole_model
        if self.args.save_strategy != "no" and isinstance(saved, PreTrainedModel):
            require_no_adapters(saved)  # or the first checkpoint would be refused
        self.whole = None if whole_model is None else WholeCheckpoints(whole_model, trained)

    def _set_signature_columns_if_needed(self) -> None:
        is_new = self._signature_columns is None
        super()._set_signature_columns_if_needed()
        if is_new and isinstance(self.data_collator, JosieDataCollator):
            self._signature_columns = [*(self._signature_columns or ()), *JosieDataCollator.columns]

    def _get_dataloader(self, dataset: Any, *args: Any, sampler_fn: Any = None, **kwargs: Any) -> Any:
        """Return batches; a column of lengths, which no batch has, is there for the sampler."""
        name = self.args.length_column_name
        choose = sampler_fn
        if choose is not None and self.args.train_sampling_strategy == "group_by_length":
            names = getattr(self.processing_class, "model_input_names", None) or ["input_ids"]
            require_lengths(dataset, name, names[0])
        if choose is not None and name in (getattr(dataset, "column_names", None) or ()):

            def choose_by_length(_: Any) -> Any:
                sampler: Any = choose(dataset.select_columns([name]))
                if hasattr(sampler, "lengths"):
                    sampler.lengths = list(sampler.lengths[:])  # a column that is read value by value takes minutes
                    if None in sampler.lengths:
                        raise ValueError(
                            f"`length_column_name` must be a column with a number in every row, got None in {name!r}."
                        )
                return sampler

            sampler_fn = choose_by_length
        return super()._get_dataloader(dataset, *args, sampler_fn=sampler_fn, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Evaluate a batch; where `label_names` have `speech_codes`, the predictions have the logits of codes too.

        A batch in which nobody speaks has none to learn then, as a row that is written has beside spoken ones. Where
        nobody asks for predictions, logits of text are made only where there is something to learn.
        """
        config = getattr(self.model, "config", None)
        if ignore_keys is None and "speech_codes" in self.label_names:
            hidden = getattr(config, "keys_to_ignore_at_inference", [])
            ignore_keys = [name for name in hidden if name not in _LOGITS_OF_CODES]
            inputs = _with_codes(inputs, config)
        trained: Any = self.model
        is_known = "text" in trained.target_names and accepts(trained.forward, "skip_logits")
        if prediction_loss_only and is_known and self.label_smoother is None:
            inputs = {**inputs, "skip_logits": True}
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        if self.accelerator.num_processes > 1:  # the base class fills up the second axis alone
            logits, labels = self._fill_up(logits, -2), self._fill_up(labels, -1)
        return loss, logits, labels

    def _fill_up(self, tensors: Any, axis: int) -> Any:
        """Return tensors, nested or not, whose axis is as long as that of the other processes; what is new is -100."""
        if isinstance(tensors, (list, tuple)):
            return type(tensors)(self._fill_up(tensor, axis) for tensor in tensors)
        if not isinstance(tensors, torch.Tensor) or tensors.ndim <= -axis:
            return tensors
        return self.accelerator.pad_across_processes(tensors, dim=tensors.ndim + axis, pad_index=IGNORE_INDEX)

    @contextmanager
    def _config_as_given(self) -> Iterator[None]:
        """Take back what the Trainer set for training alone, so that checkpoints generate as the model did."""
        config: Any = getattr(self.model, "config", None)
        changed = getattr(config, "use_cache", None)
        if changed == self._use_cache:
            yield
            return
        if self._use_cache is None:
            del config.use_cache
        else:
            config.use_cache = self._use_cache
        try:
            yield
        finally:
            config.use_cache = changed

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        with self._config_as_given():
            self._save_all(output_dir, state_dict)

    def _save_all(self, output_dir: str | None, state_dict: dict[str, torch.Tensor] | None) -> None:
        if self.whole is None:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = str(self.args.output_dir) if output_dir is None else output_dir
            self.whole.save(folder, state_dict)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)
            torch.save(self.args, os.path.join(folder, TRAINING_ARGS_NAME))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.whole is None or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, unwrap_torch(self.model if model is None else model))
        else:
            self.whole.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.whole is None or self.is_fsdp_enabled:
            given = self.model
            self.model = unwrap_torch(given)  # checkpoints have the names of what is not compiled
            try:
                super()._load_best_model()
            finally:
                self.model = given
        else:
            self.whole.load(str(self.state.best_model_checkpoint))


def require_labels(names: list[str] | None, model: Any, whole_model: Any) -> None:
    """Raise a `ValueError` for one of `label_names` that no batch has, without which evaluations would have no loss.

    Args:
        names (`list[str]`, *optional*): The names, where they are given.
        model (`nn.Module`): What is trained.
        whole_model (`PreTrainedModel`, *optional*): What it is a part of, or a head of its own around.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(inner.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    if takes_all and not isinstance(inner, PreTrainedModel):  # a head, which hands on what it does not know
        if whole_model is None:
            return
        known = {**known, **inspect.signature(whole_model.forward).parameters}
    wrong: list[Any] = [name for name in names or () if name not in known]
    if wrong or names == []:
        raise ValueError(
            "`label_names` must be inputs of the model, such as 'labels' and 'speech_codes', got "
            f"{(wrong or [names])[0]!r}."
        )


def require_lengths(dataset: Any, column: str, inputs: str) -> None:
    """Raise a `ValueError` for rows that are to be grouped by their length, and have none.

    Args:
        dataset: The rows; of a stream, which is not grouped, nothing is asked.
        column (`str`): Has the lengths.
        inputs (`str`): Name of what is as long as its row, where there is no such column.
    """
    if not isinstance(dataset, Sized) or not len(dataset):
        return
    names = getattr(dataset, "column_names", None)
    if names is None:  # of rows of another kind than those of `datasets`, only the inputs are looked at
        first = cast(Any, dataset)[0]
        if not isinstance(first, Mapping) or inputs not in first:
            raise ValueError(
                f"`train_sampling_strategy` must not be 'group_by_length' for rows without {inputs!r}, of which only a "
                f"`datasets.Dataset` has a column of lengths, got a {type(dataset).__name__}."
            )
    elif column not in names and (inputs not in names or column != "length"):
        raise ValueError(
            "`length_column_name` must be a column, by which rows are grouped, got "
            f"{column!r}, which is not among {sorted(names)}."
        )


def _with_codes(inputs: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return a batch of a whole model with `speech_codes`, -100 where there were none: `Trainer` takes no loss of a
    batch that lacks one of its `label_names`."""
    talker, labels = getattr(config, "talker_config", None), inputs.get("labels")
    if inputs.get("speech_codes") is not None or talker is None or labels is None:
        return inputs
    codes = torch.full_like(labels[:, :1], IGNORE_INDEX)[:, None].expand(-1, talker.num_quantizers, -1)
    return {**inputs, "speech_codes": codes, "speech_mask": torch.zeros_like(labels)}
