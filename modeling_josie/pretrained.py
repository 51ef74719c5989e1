"""The base class of every JOSIE model: what it can do, how it starts, how it is saved."""

import importlib
import os
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .wrapped_parts import (
    ADAPTERS,
    COMPILED,
    find_adapted_part,
    read_adapters,
    rename_for,
    require_no_adapters,
    unwrapped_to_save,
)

logger = logging.get_logger(__name__)

# Parts of transformers' text backbones that only choose experts, or the tokens to attend to, by top-k; and a fixed
# initial state.
_FIXED = frozenset({"indexer", "expert_bias", "e_score_correction_bias", "z_L_init"})


class JosiePreTrainedModel(PreTrainedModel):
    """Base class of all models of the package: attentions, splitting, initial weights, saving."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["JosieLayer"]
    _skip_keys_device_placement = ["cache"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {}  # each backbone inside records its own
    _keys_to_ignore_on_load_unexpected = [r"\.codebook_sum$"]  # follows from codebook and cluster size
    _checkpoint_conversion_mapping = {rf"\b{COMPILED}\.": ""}  # peft reads adapters by it
    # Name of the part in a checkpoint of the whole model, out of which its class loads it.
    _name_in_whole: str | None = None

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load a model as [`~transformers.PreTrainedModel.from_pretrained`] does, which forgets what was frozen.

        Thinker and Talker also load out of a checkpoint of the whole model.
        """
        renaming = {rf"\b{COMPILED}\.": ""}  # of what was compiled, and saved by other means than `save_pretrained`
        if cls._name_in_whole is not None:
            renaming[rf"^{cls._name_in_whole}\."] = ""
        kwargs["key_mapping"] = renaming | (kwargs.get("key_mapping") or {})
        loaded = super().from_pretrained(*args, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        # Or saving would give the part its name in the whole model back.
        conversions = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [
            conversion for conversion in conversions if not renaming.keys() & set(conversion.source_patterns)
        ]
        model.freeze_fixed_parts()
        return loaded

    def load_adapter(
        self,
        peft_model_id: str | None = None,
        adapter_name: str | None = None,
        peft_config: dict[str, Any] | None = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        *args: Any,
        load_config: Any = None,
        **kwargs: Any,
    ):
        """Load adapters as [`~transformers.PreTrainedModel.load_adapter`] does; those of a part go into this part.

        Args:
            peft_model_id (`str`, *optional*): Their folder or Hub name.
            adapter_name (`str`, *optional*): The name that they get.
            peft_config (`dict`, *optional*): Their configuration, in place of that of `peft_model_id`.
            adapter_state_dict (`dict[str, torch.Tensor]`, *optional*): Their weights, likewise.
            args, kwargs: For `PreTrainedModel.load_adapter`.
            load_config (*optional*): How the model itself was loaded.

        Raises:
            `ValueError`: They fit several parts equally well.
        """
        source = peft_model_id or getattr(load_config, "pretrained_model_name_or_path", None)
        names = list(adapter_state_dict or ())
        if adapter_state_dict is None and source is not None:
            options = {**kwargs, **(getattr(load_config, "download_kwargs", None) or {})}
            options |= kwargs.get("adapter_kwargs") or {}
            names, adapter_state_dict = read_adapters(str(source), options)
        given = (peft_model_id, adapter_name, peft_config, adapter_state_dict, *args)
        name = find_adapted_part(self, names)
        if not name:
            return super().load_adapter(*given, load_config=load_config, **kwargs)
        part: Any = self.get_submodule(name)
        devices = getattr(self, "hf_device_map", None) or {}
        if len(set(devices.values())) > 1:
            places = {f"{place}.": device for place, device in devices.items() if f"{place}.".startswith(f"{name}.")}
            inside = {place.removeprefix(f"{name}.").removesuffix("."): device for place, device in places.items()}
            if inside:  # else it is on one
                part.hf_device_map = inside
        if load_config is not None:  # its names of weights are those of the whole
            load_config = replace(load_config, weight_mapping=None, dtype_plan={})
        return part.load_adapter(*given, load_config=load_config, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Find weights whether or not parts are compiled now, or were when they were saved.

        What torch and peft would pass over is refused: plain names for a compiled model, adapters of a part.
        """
        *_, unexpected, _ = args
        if prefix == f"{COMPILED}." and not state_dict and unexpected:
            raise ValueError(
                f"`state_dict` must have names that begin with '{prefix}' for what `torch.compile` returned, got "
                f"{unexpected[0]!r}: load it into the model that was compiled; a `Trainer` compiles by `torch_compile`."
            )
        if prefix.endswith(ADAPTERS):
            name = find_adapted_part(self, (key.removeprefix(prefix) for key in state_dict))
            if name:
                raise ValueError(
                    f"`model` must be the part that the adapters are of, got a {type(self).__name__} for those of its "
                    f"{name!r}: give `model.{name}` of a model loaded anew."
                )
        rename_for(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)  # type: ignore[misc]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Any] | None = None,
        *args: Any,
        with_code: bool | None = None,
        processor: Any = None,
        **kwargs: Any,
    ):
        """Save as [`~transformers.PreTrainedModel.save_pretrained`] does, without code: `josie.save_with_code` adds it.

        What of the model is compiled, or wrapped for data parallelism, is saved as if it were not.

        Args:
            save_directory (`str` or `os.PathLike`): The folder.
            is_main_process (`bool`): Whether this process writes.
            state_dict (`dict`, *optional*): The weights; the model's own when `None`.
            with_code (`bool`, *optional*): Deprecated, goes in version 0.3: `True` calls `josie.save_with_code`.
            processor (*optional*): Deprecated likewise, for `with_code`.
            args, kwargs: For `PreTrainedModel.save_pretrained`.

        Raises:
            `ValueError`: A processor without `with_code`, or a part has adapters of its own.
        """
        given = dict(is_main_process=is_main_process, state_dict=state_dict)
        if with_code:
            return self._call_deprecated(
                "save_with_code", save_directory, *args, processor=processor, **given, **kwargs
            )
        if processor is not None:
            raise ValueError("`processor` must be None without `with_code`: call `processor.save_pretrained`.")
        with unwrapped_to_save(self, state_dict) as weights:
            if not self.is_remote_code() and getattr(self.config, "auto_map", None):
                logger.warning_once("Saved without the code it came with: `josie.save_with_code` writes that too.")
                del self.config.auto_map  # it names files that are not written
            return super().save_pretrained(save_directory, is_main_process, weights, *args, **kwargs)

    def push_to_hub(
        self, repo_id: str, *args: Any, with_code: bool | None = None, processor: Any = None, **kwargs: Any
    ):
        """Push as [`~transformers.PreTrainedModel.push_to_hub`] does, without code: `josie.push_with_code` adds it.

        Args:
            repo_id (`str`): Name of the repository.
            with_code (`bool`, *optional*): Deprecated, goes in version 0.3: `True` calls `josie.push_with_code`.
            processor (*optional*): Deprecated likewise, for `with_code`.
            args, kwargs: For `PreTrainedModel.push_to_hub`.

        Raises:
            `ValueError`: A processor without `with_code`, or a part has adapters of its own: no repository is made.
        """
        if with_code:
            return self._call_deprecated("push_with_code", repo_id, *args, processor=processor, **kwargs)
        if processor is not None:
            raise ValueError("`processor` must be None without `with_code`: call `processor.push_to_hub`.")
        require_no_adapters(self)
        return super().push_to_hub(repo_id, *args, **kwargs)  # type: ignore[arg-type]

    def _call_deprecated(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a function of the package's root that replaces an argument of a method."""
        warnings.warn(f"`with_code` is deprecated: call `josie.{name}(model, ...)`.", FutureWarning, stacklevel=3)
        function = getattr(importlib.import_module(__name__.partition(".")[0]), name, None)
        if function is None:
            raise ValueError(f"`with_code` must be None where the package josie is not installed: it has `{name}`.")
        return function(self, *args, **kwargs)

    def freeze_fixed_parts(self):
        """Freeze what no loss of this model reaches, so that every trainable parameter gets a gradient.

        Modules that have such parts say so in a method `freeze_fixed_parts` of their own. No gradient passes through
        a choice of experts or of tokens.
        """
        for name, parameter in self.named_parameters():
            if not _FIXED.isdisjoint(name.split(".")):
                parameter.requires_grad_(False)
        for module in self.modules():
            if module is not self and hasattr(module, "freeze_fixed_parts") and not isinstance(module, PreTrainedModel):
                module.freeze_fixed_parts()

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return `False`: transformers then also initialises modules without parameters of their own.

        It passes over them in code of others, which may overwrite loaded weights. Ours and transformers' own parts
        leave these as they are, and some make buffers of their layers anew there that are not saved (Falcon-H1).
        """
        return False

    def _init_weights(self, module: nn.Module):
        """Initialise one module: as transformers does, then by its `reset_weights` where it has one.

        That method uses the functions of `transformers.initialization`, which leave loaded weights as they are.
        Torch's `reset_parameters` is another, which the constructors of torch's modules call.
        """
        super()._init_weights(module)
        reset = getattr(module, "reset_weights", None)
        if reset is not None:
            reset()
