"""JOSIE looks at a drawn scene, hears a question about it, and answers aloud.

    make demo        (or: python examples/demo.py [FOLDER] [--seed N] [--model DIR])

Takes some seconds on two cores once the environment is there. The scene has a combination of colour, shape and place
that no training scene had. Where flite is installed, it asks one of the questions there are; elsewhere the scene is
chosen to fit one of the recorded questions in `examples/nano_world/questions`, which its voices spoke too. In FOLDER,
`demo/` if not given, `reply.wav` is what JOSIE says, and `demo.png` shows all of it.
"""

import argparse
import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from demo_image import Spoken, draw_demo
from nano_world.grammar import Question, ask, questions
from nano_world.recorded import find_recording, list_recordings
from nano_world.scenes import Scene, draw_scene, render
from nano_world.voices import QUESTIONERS, SAMPLING_RATE
from nano_world.wordings import article
from recipes.places import require_place
from transformers import AutoModelForMultimodalLM, AutoProcessor, logging

import josie
from josie.configuration_josie import decodes_in_stream

IMAGE_SIZE, LARGE_IMAGE_SIZE = 256, 1024  # pixels a side, for JOSIE and for us
EXAMPLE_SEED = 436  # of the scene in `nano/examples`


@dataclass
class Asked:
    """A scene and what is asked about it.

    Args:
        scene (`Scene`): What JOSIE sees.
        question (`Question`): With its answer.
        voice (`str`): Of flite, who asks.
        waveform (`np.ndarray`): `(num_samples,)`, at 16 kHz.
    """

    scene: Scene
    question: Question
    voice: str
    waveform: np.ndarray


def ask_aloud(draw: random.Random) -> Asked:
    """Return a scene of the test split and any question about it, spoken now."""
    scene, voice = draw_scene(draw, "test"), draw.choice(QUESTIONERS)
    question = ask(scene, draw)
    return Asked(scene, question, voice.name, voice.say(question.text))


def play_question(draw: random.Random) -> Asked:
    """Return one of the recorded questions, and a scene of the test split that it can be asked about."""
    recorded = list_recordings()
    name = draw.choice(sorted(recorded))
    text, voice = recorded[name]["text"], recorded[name]["voice"]
    while True:
        scene = draw_scene(draw, "test")
        fitting = [question for question in questions(scene) if question.text == text]
        if fitting:
            return Asked(scene, fitting[0], voice, josie.load_audio(find_recording(name), SAMPLING_RATE))


@dataclass
class Reply:
    """An answer of a model.

    Args:
        written (`str`): Its text.
        waveform (`np.ndarray`): `(num_samples,)`; empty where it says nothing.
        sampling_rate (`int`): In Hz.
        first_seconds (`float`): Time from the question to the first sample.
    """

    written: str
    waveform: np.ndarray
    sampling_rate: int
    first_seconds: float


def answer(asked: Asked, folder: str) -> Reply:
    """Have a model answer, in pieces where its codec makes samples while codes come."""
    model = AutoModelForMultimodalLM.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    content = [
        {"type": "image", "image": render(asked.scene, IMAGE_SIZE)},
        {"type": "audio", "audio": asked.waveform, "sampling_rate": SAMPLING_RATE},
    ]
    begin = time.perf_counter()
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    options = dict(max_new_tokens=32)
    if decodes_in_stream(model.config.audio_codec_config):
        pieces, first = [], 0.0
        for piece in model.generate_stream(**inputs, **options):
            if not first and int(piece.audio_lengths[0]):
                first = time.perf_counter() - begin
            pieces.append(piece)
        ids = torch.cat([piece.sequences for piece in pieces], dim=1)
        values = torch.cat([piece.audio_values[0, 0, : piece.audio_lengths[0]] for piece in pieces])
    else:
        reply = model.generate(**inputs, generation_mode="audio", **options)
        first = time.perf_counter() - begin
        ids = reply.sequences[:, inputs["input_ids"].shape[1] :]
        values = reply.audio_values[0, 0, : reply.audio_lengths[0]]
    written = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    return Reply(written, values.float().numpy(), model.sampling_rate, first)


def describe(scene: Scene) -> str:
    """Return the things of a scene in words."""
    return ", ".join(f"{article(thing.size)} {thing.size} {thing.colour} {thing.shape}" for thing in scene.things)


def main() -> None:
    """Draw, ask, answer, show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"), help="where to write; demo if not given")
    parser.add_argument("--seed", type=int, default=EXAMPLE_SEED, help="of scene, question and voice")
    parser.add_argument("--model", help="another checkpoint than the small one that comes with the package")
    arguments = parser.parse_args()
    try:
        require_place(arguments.folder, "folder")
    except ValueError as error:
        parser.error(str(error))
    logging.disable_progress_bar()
    start = time.perf_counter()
    draw = random.Random(arguments.seed)
    asked = ask_aloud(draw) if shutil.which("flite") else play_question(draw)
    reply = answer(asked, arguments.model or josie.nano_path())
    written, waveform, rate = reply.written, reply.waveform, reply.sampling_rate
    is_right = written == asked.question.answer

    arguments.folder.mkdir(parents=True, exist_ok=True)
    audio, image = arguments.folder / "reply.wav", arguments.folder / "demo.png"
    print(f"scene:     {describe(asked.scene)}")
    print(f"question:  {asked.question.text!r}, spoken by {asked.voice}")
    print(f"answer:    {written!r}, " + ("right" if is_right else f"wrong: {asked.question.answer!r} is right"))
    if len(waveform):
        josie.save_audio(audio, waveform, rate)
        print(f"speech:    {len(waveform) / rate:.2f} s, {audio}; the first sample after {reply.first_seconds:.2f} s")
    else:
        audio.unlink(missing_ok=True)
        print("speech:    none")
    verdict = "right" if is_right else f"right would be: {asked.question.answer}"
    if len(waveform):
        verdict += f"  ·  first sample after {reply.first_seconds:.2f} s"
    draw_demo(
        render(asked.scene, LARGE_IMAGE_SIZE),
        Spoken(f"asked aloud by {asked.voice}", asked.question.text, asked.waveform, SAMPLING_RATE),
        Spoken(f"JOSIE answers  ·  {verdict}", written, waveform, rate),
        f"seed {arguments.seed}: colour, shape and place in a combination that training never showed",
        image,
    )
    print(f"image:     {image}")
    print(f"time:      {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
