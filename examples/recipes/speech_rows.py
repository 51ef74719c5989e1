"""Conversations of recordings and their texts: a clip that is to be written down, or a text that is to be said.

`fetch_data.py speech` leaves them in a folder, see [`recipes.speech_data`].
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from josie.training.conversations import to_dataset
from recipes.speech_data import SPLITS, read_manifest

TASKS = ("transcribe", "say")
READ_ALOUD = "Read aloud."


def load_speech_rows(options: dict[str, Any], columns: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """Return the rows of each split.

    Args:
        options (`dict`): Of the source: `path`, a folder with a manifest of each split; `task`, `"transcribe"` or
            `"say"`; and perhaps `sources`, the names of those to use.
        columns (`Sequence[str]`): What rows keep beside `messages`, of what a manifest has: `word_times`, `seconds`...

    Raises:
        `ValueError`: There is no such folder or task.
    """
    path, task, sources = options.get("path"), options.get("task"), options.get("sources")
    if not isinstance(path, str) or options.keys() - {"path", "task", "sources"} or task not in TASKS:
        raise ValueError(
            f"A source 'speech' must have `path`, `task` of {list(TASKS)} and perhaps `sources`, got {options!r}."
        )
    manifests = {split: Path(path, f"{split}.jsonl") for split in SPLITS}
    for manifest in manifests.values():
        if not manifest.is_file():
            raise ValueError(
                f"`path` of a source 'speech' must be a folder that `fetch_data.py speech` has filled, got {path!r}, "
                f"without {manifest.name!r}."
            )
    return {
        split: to_dataset(list(_make_rows(manifest, task, sources, columns)), tuple(columns))
        for split, manifest in manifests.items()
    }


def _make_rows(
    manifest: Path, task: str, sources: list[str] | None, columns: tuple[str, ...] | list[str]
) -> Iterator[dict[str, Any]]:
    for clip in read_manifest(manifest):
        if clip["text"] and (sources is None or clip["source"] in sources):
            yield {"messages": make_messages(clip, task), **{name: clip.get(name) for name in columns}}


def make_messages(clip: dict[str, Any], task: str) -> list[dict[str, Any]]:
    """Return the conversation of a line of a manifest.

    Args:
        clip (`dict`): With `path` and `text`.
        task (`str`): `"transcribe"`, where the user's clip is heard and the assistant writes its text; or `"say"`,
            where the assistant says it.
    """
    audio = {"type": "audio", "path": clip["path"]}
    if task == "transcribe":
        return [
            {"role": "user", "content": [audio | {"text": clip["text"]}]},
            {"role": "assistant", "content": clip["text"]},
        ]
    return [
        {"role": "user", "content": READ_ALOUD},  # some templates have to begin with the user
        {"role": "assistant", "content": [{"type": "text", "text": clip["text"]}, audio]},
    ]
