"""Auto classes and the classes of this package that they load: what `auto_map` has to name."""

from collections.abc import Iterator
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING

from ... import modeling_josie, processing_josie  # noqa: F401  (they register what Auto classes know)
from .flatten import Module

PROCESSOR_MAPPINGS = {
    "AutoProcessor": PROCESSOR_MAPPING,
    "AutoFeatureExtractor": FEATURE_EXTRACTOR_MAPPING,
    "AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
    "AutoVideoProcessor": VIDEO_PROCESSOR_MAPPING,
}


def list_loaders(config_class: type[PreTrainedConfig]) -> Iterator[tuple[str, Any]]:
    """Yield the names of the Auto classes that know a class of configurations, and the classes of ours they load."""
    mappings = {
        name: auto_class._model_mapping
        for name, auto_class in vars(modeling_auto).items()
        if name.startswith("AutoModel") and hasattr(auto_class, "_model_mapping")
    }
    found: list[tuple[str, Any]] = [("AutoConfig", config_class)]
    for name, mapping in sorted((mappings | PROCESSOR_MAPPINGS).items()):
        loaded = mapping._extra_content.get(config_class)
        found.append((name, next(iter(loaded.values())) if isinstance(loaded, dict) else loaded))
    return ((name, loaded) for name, loaded in found if loaded is not None and is_ours(loaded))


def list_models(config_class: type[PreTrainedConfig]) -> set[Any]:
    """Return the models of this package for a class of configurations."""
    return {loaded for name, loaded in list_loaders(config_class) if name.startswith("AutoModel")}


def list_config_classes(config: PreTrainedConfig) -> set[type[PreTrainedConfig]]:
    """Return our classes of a configuration and its parts, and of the parts of each class's defaults.

    transformers compares a configuration with its class's defaults when it saves, so these have to exist too.
    """
    classes: set[type[PreTrainedConfig]] = set()
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if type(part) not in classes and is_ours(type(part)):
            waiting.append(type(part)())
        classes.add(type(part))
        waiting += [value for value in vars(part).values() if isinstance(value, PreTrainedConfig)]
    return {config_class for config_class in classes if is_ours(config_class)}


def is_ours(loaded: type) -> bool:
    """Return whether a class is of this package."""
    return loaded.__module__.startswith(f"{__package__.partition('.')[0]}.")


def module_of(loaded: type) -> Module:
    """Return the path of a class's module below the package."""
    return tuple(loaded.__module__.split(".")[1:])
