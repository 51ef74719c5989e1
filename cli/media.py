"""Files of audio, images and videos, told apart without torch."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

from .options import apply_requirement, existing_file

# As `NO_PROTOCOLS` of processing_josie/containers.py, which is not to be had without torch.
_NO_PROTOCOLS = {"protocol_whitelist": ""}
Modality = Literal["audio", "image", "video"]


def find_modalities(path: Path) -> tuple[Modality, ...]:
    """Return as what a file can be read, the most natural first; nothing where nobody can read it."""
    import soundfile
    from PIL import Image

    try:
        soundfile.info(cast(Any, os.fsencode(path)))  # soundfile itself does not encode every name
    except soundfile.SoundFileError:
        pass
    else:
        return ("audio",)
    try:
        with path.open("rb") as file:
            if file.read(3) == b"ID3":  # a tag of songs, which hides what is behind it
                return ("audio",)
        with Image.open(path) as image:
            if image.format in ("GIF", "WEBP", "PNG", "AVIF") and (image.format == "GIF" or _moves(image)):
                return ("video", "image") if _moves(image) else ("image", "video")
            if image.format != "MPEG":  # which Pillow knows and cannot read
                return ("image",)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        pass
    return _find_tracks(path)


def _moves(image: Any) -> bool:
    return getattr(image, "n_frames", 1) > 1


def _find_tracks(path: Path) -> tuple[Modality, ...]:
    try:
        import av
        import av.stream
        from av.error import FFmpegError
    except ImportError:  # whoever reads the file says so
        return ("video",)
    try:
        with path.open("rb") as file, av.open(file, options=_NO_PROTOCOLS) as container:
            is_cover = av.stream.Disposition.attached_pic
            videos = [track for track in container.streams.video if not track.disposition & is_cover]
            found: list[tuple[Modality, Any]] = [("video", videos), ("audio", container.streams.audio)]
            return tuple(modality for modality, tracks in found if tracks)
    except (FFmpegError, OSError):
        return ()


def audio_file(path: Path) -> str | None:
    """Require a file with audio."""
    return _require("audio", path, "be an audio file, or a video with audio")


def image_file(path: Path) -> str | None:
    """Require an image; of an animation the first frame is seen."""
    return _require("image", path, "be an image")


def video_file(path: Path) -> str | None:
    """Require a video, or a GIF."""
    return _require("video", path, "be a video")


def _require(modality: Modality, path: Path, required: str) -> str | None:
    missing = existing_file(path)
    return missing or (None if modality in find_modalities(path) else required)


def find_named_file(command: str, name: str, requirement: Callable[[Path], str | None]) -> Path:
    """Return the file that a line of a conversation names; quotes around it and ~ are understood.

    Args:
        command (`str`): It: `"/image"`.
        name (`str`): As it was typed.
        requirement (`Callable`): As in [`checked`].

    Raises:
        `ValueError`: It names none, or one that does not fit.
    """
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    if not name:
        raise ValueError(f"`{command} FILE` must name a file, got none.")
    path = Path(name).expanduser()
    required = apply_requirement(requirement, path)
    if required:
        raise ValueError(f"`{command} FILE` must {required}, got {name!r}.")
    return path
