"""Code of a checkpoint: flat copies of the package's files in its folder, and the `auto_map`s that name them.

`flatten` says how the copies differ. With them transformers does the rest: what was loaded from such a folder takes
its code along when it is saved or pushed.
"""

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING
from transformers.configuration_utils import PreTrainedConfig

from .auto_classes import PROCESSOR_MAPPINGS, list_config_classes, list_loaders, list_models, module_of
from .flatten import flat_name, flatten, write_index

INDEX = "auto_josie"  # the file that `auto_map` names
# Files with the settings of processors, alone and inside the processor's own file, and who loads them.
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_PART_LOADERS = {
    "feature_extractor_type": "AutoFeatureExtractor",
    "image_processor_type": "AutoImageProcessor",
    "video_processor_type": "AutoVideoProcessor",
    "processor_class": "AutoProcessor",
}


def add_code(folder: str | Path, config: PreTrainedConfig) -> list[str]:
    """Add the code to a folder that `save_pretrained` wrote, so that it loads without this package.

    Args:
        folder (`str` or `Path`): With a `config.json`, and a processor's files where there are any.
        config ([`PreTrainedConfig`]): The model's configuration; it says which files are needed.

    Returns:
        The names of the Python files.

    Raises:
        `ValueError`: `config` is of no class of this package, or the folder has no `config.json`.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"`folder` must have a config.json, got {str(folder)!r}.")
    loaders = dict(list_loaders(type(config)))
    if not loaders:
        raise ValueError(f"`config` must be of a class of this package, got a {type(config).__name__}.")
    model_loaders = {name: loaded for name, loaded in loaders.items() if name not in PROCESSOR_MAPPINGS}
    used = list_config_classes(config)
    needed = {*loaders.values(), *(model for config_class in used for model in list_models(config_class))}
    files = flatten({module_of(loaded) for loaded in needed})
    texts = {flat_name(module): text for module, text in files.items()}
    config_classes = {
        name: config_class
        for name, config_class in CONFIG_MAPPING._extra_content.items()
        if module_of(config_class) in files
    }
    unknown = {
        name
        for name, config_class in config_classes.items()
        if config_class not in used and not any(module_of(model) in files for model in list_models(config_class))
    }
    index = {}
    for name, config_class in config_classes.items():
        for loader, loaded in list_loaders(config_class) if name not in unknown else ():
            if module_of(loaded) in files:
                index[loaded.__name__] = (module_of(loaded), loaded.__name__, loader)
    texts[INDEX] = write_index(index.values(), unknown)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    auto_map = {name: f"{INDEX}.{loaded.__name__}" for name, loaded in model_loaders.items()}
    _edit_json(folder / "config.json", lambda content: content.update(auto_map=auto_map))
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            _edit_json(folder / name, lambda content: _map_processors(content, index.keys()))
    return [f"{name}.py" for name in sorted(texts)]


def _map_processors(settings: dict[str, Any], names: Collection[str]) -> None:
    """Name the classes of a processor, and of the parts inside it, in an `auto_map` each."""
    for key, loader in _PART_LOADERS.items():
        is_whole = key != "processor_class" or len(settings.keys() & _PART_LOADERS.keys()) == 1
        if settings.get(key) in names and is_whole:
            settings["auto_map"] = {loader: f"{INDEX}.{settings[key]}"}
    for part in settings.values():
        if isinstance(part, dict):
            _map_processors(part, names)


def _edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
