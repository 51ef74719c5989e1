"""Checkpoints with code: folders that load with `trust_remote_code=True` where this package is not installed.

`add_code` makes one of a folder that `save_pretrained` wrote: it adds flat copies of the package's files (`hub_flatten`
says how they differ) and names them in the `auto_map` of each JSON file. From then on transformers does the rest: what
was loaded from such a folder takes its code along when it is saved or pushed.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING
from transformers.utils import cached_file, logging

from ... import modeling_josie, processing_josie  # noqa: F401  (they register what Auto classes know)
from ..files import new_folder
from .card_metadata import require_same_license
from .flatten import Module, flat_name, flatten, write_index
from .model_card import CARD_FILE, write_model_card

logger = logging.get_logger(__name__)

INDEX = "auto_josie"  # the file that `auto_map` names
# Where the settings of processors are written, alone and inside the processor's own file, and who loads them.
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
_PART_LOADERS = {
    "feature_extractor_type": "AutoFeatureExtractor",
    "image_processor_type": "AutoImageProcessor",
    "video_processor_type": "AutoVideoProcessor",
    "processor_class": "AutoProcessor",
}
_PROCESSOR_MAPPINGS = {
    "AutoProcessor": PROCESSOR_MAPPING,
    "AutoFeatureExtractor": FEATURE_EXTRACTOR_MAPPING,
    "AutoImageProcessor": IMAGE_PROCESSOR_MAPPING,
    "AutoVideoProcessor": VIDEO_PROCESSOR_MAPPING,
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
    loaders = dict(_loaders_of(type(config)))
    if not loaders:
        raise ValueError(f"`config` must be of a class of this package, got a {type(config).__name__}.")
    models = {name: loaded for name, loaded in loaders.items() if name not in _PROCESSOR_MAPPINGS}
    needed = {*loaders.values(), *(part for kind in _kinds_in(config) for part in _model_classes(kind))}
    files = flatten({_module_of(loaded) for loaded in needed})
    texts = {flat_name(module): text for module, text in files.items()}
    kinds = {name: kind for name, kind in CONFIG_MAPPING._extra_content.items() if _module_of(kind) in files}
    has_model = {name: any(_module_of(part) in files for part in _model_classes(kind)) for name, kind in kinds.items()}
    unknown = {name for name, kind in kinds.items() if not has_model[name] and kind not in _kinds_in(config)}
    index = {}
    for name, kind in kinds.items():
        for loader, loaded in _loaders_of(kind) if name not in unknown else ():
            if _module_of(loaded) in files:
                index[loaded.__name__] = (_module_of(loaded), loaded.__name__, loader)
    texts[INDEX] = write_index(index.values(), unknown)
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    _edit_json(folder / "config.json", lambda facts: facts.update(auto_map=_auto_map(models)))
    for name in _PROCESSOR_FILES:
        if (folder / name).is_file():
            _edit_json(folder / name, lambda facts: _map_processors(facts, index.keys()))
    return [f"{name}.py" for name in sorted(texts)]


def save_with_code(
    model: PreTrainedModel,
    folder: str | os.PathLike,
    processor: Any = None,
    *,
    is_main_process: bool = True,
    card: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save a model so that its folder loads with `trust_remote_code=True` where this package is not installed.

    Args:
        model ([`PreTrainedModel`]): A model of this package.
        folder (`str` or `os.PathLike`): Gets weights, code, processor and model card.
        processor (*optional*): Its processor, feature extractor or image processor; when `None`, the one in `folder`,
            or the one beside the weights that the model was loaded from, or for encoders and codecs the one that
            follows from the configuration.
        is_main_process (`bool`): Whether this process writes.
        card (`dict[str, Any]`, *optional*): Facts for the model card, as [`write_model_card`] takes them.
        kwargs: For [`~transformers.PreTrainedModel.save_pretrained`], such as `max_shard_size`.

    Raises:
        `ValueError`: `push_to_hub=True`: [`push_with_code`] pushes; or the model is of another package.
    """
    if kwargs.pop("push_to_hub", False):
        raise ValueError("`push_to_hub` must be False with code: call `josie.push_with_code`.")
    PreTrainedModel.save_pretrained(model, folder, is_main_process=is_main_process, **kwargs)
    if not is_main_process or getattr(model, "_hf_peft_config_loaded", False):
        return
    if model.is_remote_code():  # transformers has copied the code that the model came with
        if processor is not None:
            processor.save_pretrained(folder)
        return
    complete_folder(model, folder, processor, **(card or {}))


def complete_folder(model: PreTrainedModel, folder: str | os.PathLike, processor: Any = None, **card: Any) -> None:
    """Add processor, code and card to a folder that has the weights of `model`; arguments of [`save_with_code`]."""
    folder = Path(folder)
    if processor is None and not any((folder / name).is_file() for name in _PROCESSOR_FILES):
        processor = find_processor(model.config)
    if processor is not None:
        processor.save_pretrained(folder)
    add_code(folder, model.config)
    write_model_card(folder, model.config, model=model, with_code=True, **card)


def find_processor(config: PreTrainedConfig) -> Any:
    """Return the processor that was saved beside a model, else the one that follows from its configuration, or `None`.

    Args:
        config ([`PreTrainedConfig`]): Of a model of this package; it remembers where it was loaded from.
    """
    loaders = dict(_loaders_of(type(config)))
    if "AutoProcessor" in loaders:
        file = _find_file(config.name_or_path, "processor_config.json")
        return loaders["AutoProcessor"].from_pretrained(config.name_or_path) if file else None
    for name in ("AutoFeatureExtractor", "AutoImageProcessor"):
        if name in loaders:
            file = _find_file(config.name_or_path, "preprocessor_config.json")
            return loaders[name].from_pretrained(config.name_or_path) if file else loaders[name].from_config(config)
    return None


def export_folder(
    source: str | Path, destination: str | Path, max_shard_size: int | str = "5GB", **card: Any
) -> list[str]:
    """Write a checkpoint once more, with the code that it needs.

    Args:
        source (`str` or `Path`): A folder or Hub name with any model of this package.
        destination (`str` or `Path`): The folder to make.
        max_shard_size (`int` or `str`): Largest file of weights.
        card: Facts for the model card, as [`write_model_card`] takes them.

    Returns:
        The names of all files.

    Raises:
        `ValueError`: `source` holds no model of this package or not all of its weights, its card names another licence
            than `license`, or `destination` exists.
    """
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except OSError as error:
        raise ValueError(f"`DIR` must be a folder with a JOSIE checkpoint, got {str(source)!r}: {error}") from error
    loaders = dict(_loaders_of(type(config)))
    model_class: Any = getattr(modeling_josie, (config.architectures or [""])[0], loaders.get("AutoModel"))
    if model_class is None:
        raise ValueError(f"`DIR` must hold a model of this package, got {str(source)!r}, a {config.model_type!r}.")
    old_card = _find_file(str(source), CARD_FILE)
    if old_card is not None:
        require_same_license(Path(old_card), card.get("license"))
    with new_folder(Path(destination), "OUT") as folder:
        loaded: Any = model_class.from_pretrained(source, dtype="auto", output_loading_info=True)
        model, loading = loaded
        missing = sorted(loading["missing_keys"])
        if missing:
            raise ValueError(
                f"`DIR` must hold all weights that its config.json asks for, got {str(source)!r}, which lacks "
                f"{len(missing)} of them, such as {missing[0]!r}."
            )
        if old_card is not None:
            shutil.copyfile(old_card, folder / CARD_FILE)
        save_with_code(model, folder, max_shard_size=max_shard_size, card=card)
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def push_with_code(
    model: PreTrainedModel,
    repo_id: str,
    processor: Any = None,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    max_shard_size: int | str = "5GB",
    tags: list[str] | None = None,
) -> Any:
    """Push a model with processor, card and code in one commit; a card that is there already is kept and completed.

    Args:
        model ([`PreTrainedModel`]): A model of this package.
        repo_id (`str`): Name of the repository, which is made if it does not exist.
        processor (*optional*): As in [`save_with_code`].
        private, token, revision, create_pr, commit_message, commit_description, max_shard_size, tags: As in
            [`~transformers.PreTrainedModel.push_to_hub`].

    Returns:
        What `HfApi.upload_folder` returns.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/pr"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            ModelCard.load(repo_id, token=token, ignore_metadata_errors=True).save(Path(folder) / CARD_FILE)
        except EntryNotFoundError:
            logger.info(f"{repo_id} has no model card yet: one is made.")
        save_with_code(
            model, folder, processor, max_shard_size=max_shard_size, card={"repo_id": repo_id, "tags": tags or ()}
        )
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message or "Upload model with its code",
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
        )


def _kinds_in(config: PreTrainedConfig) -> set[type[PreTrainedConfig]]:
    """Return the classes of a configuration and of those inside it, and inside of what each is without arguments:
    transformers compares with that when it saves."""
    kinds: set[type[PreTrainedConfig]] = set()
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if type(part) not in kinds and _is_ours(type(part)):
            waiting.append(type(part)())
        kinds.add(type(part))
        waiting += [value for value in vars(part).values() if isinstance(value, PreTrainedConfig)]
    return {kind for kind in kinds if _is_ours(kind)}


def _model_classes(kind: type[PreTrainedConfig]) -> set[Any]:
    """Return the models of this package for a class of configurations."""
    return {loaded for name, loaded in _loaders_of(kind) if name.startswith("AutoModel")}


def _is_ours(loaded: type) -> bool:
    return loaded.__module__.startswith(f"{__package__.partition('.')[0]}.")


def _loaders_of(config_class: type[PreTrainedConfig]) -> Iterator[tuple[str, Any]]:
    """Give the Auto classes that know a configuration, and what each would load for it, where that is ours."""
    mappings = {
        name: auto_class._model_mapping
        for name, auto_class in vars(modeling_auto).items()
        if name.startswith("AutoModel") and hasattr(auto_class, "_model_mapping")
    }
    found: list[tuple[str, Any]] = [("AutoConfig", config_class)]
    for name, mapping in sorted((mappings | _PROCESSOR_MAPPINGS).items()):
        loaded = mapping._extra_content.get(config_class)
        found.append((name, next(iter(loaded.values())) if isinstance(loaded, dict) else loaded))
    return ((name, loaded) for name, loaded in found if loaded is not None and _is_ours(loaded))


def _module_of(loaded: type) -> Module:
    return tuple(loaded.__module__.split(".")[1:])


def _auto_map(loaders: dict[str, Any]) -> dict[str, str]:
    return {name: f"{INDEX}.{loaded.__name__}" for name, loaded in loaders.items()}


def _map_processors(facts: dict[str, Any], names: Any) -> None:
    """Name the classes of a processor, and of the parts inside it, in an `auto_map` each."""
    for key, loader in _PART_LOADERS.items():
        if facts.get(key) in names and (key != "processor_class" or len(facts.keys() & _PART_LOADERS.keys()) == 1):
            facts["auto_map"] = {loader: f"{INDEX}.{facts[key]}"}
    for part in facts.values():
        if isinstance(part, dict):
            _map_processors(part, names)


def _edit_json(path: Path, edit: Any) -> None:
    facts = json.loads(path.read_text(encoding="utf-8"))
    edit(facts)
    path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _find_file(folder: str | None, name: str) -> str | None:
    """Return the path of a file of a folder or Hub repository; `None` if there is none."""
    if not folder:
        return None
    return cached_file(
        folder,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
