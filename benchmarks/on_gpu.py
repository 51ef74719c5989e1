"""JOSIE on an accelerator, in at most eight minutes: is it right there, how fast is it beside its peers, what does it
take.

Five questions, each a table: do nano and a random assembly of 300 M parameters (Llama, Whisper, SigLIP, Mimi) give in
float32, bfloat16 and float16 what they give on the CPU; does every attention that is there agree with the eager one;
does one training step of every part give finite gradients, plainly and under autocast; how fast are Thinker, Talker and
codec beside Llama, CSM and Mimi of the same sizes, eager, compiled, and with CUDA graphs; and how much memory does each
take. What fails or does not fit into the time is a row that says so.

    python benchmarks/on_gpu.py [--device cuda] [--minutes 8] [--out on_gpu]

writes `on_gpu.json` and `on_gpu.md`. On a CPU the models are small, and nothing is compiled.
"""

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers
from measure import find_processor
from on_gpu_models import Contestant, assembly, nano, parts, speed_pairs
from transformers import CompileConfig, StaticCache
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from josie.modeling_josie.talker.decoding import CodeSampler

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROMPT, TOKENS, FRAMES, SECONDS = 32, 128, 50, 4
WARMUP = 2  # runs before those that are timed
Row = dict[str, Any]


class Session:
    """One run: where it computes, how long it may take, and what it found.

    Args:
        device (`torch.device`): The accelerator, or the CPU.
        minutes (`float`): After which nothing new begins.
        rounds (`int`): Timed runs of each contestant.
    """

    def __init__(self, device: torch.device, minutes: float, rounds: int):
        self.device = device
        self.end = time.monotonic() + 60 * minutes
        self.rounds = rounds
        self.tables: dict[str, list[Row]] = {}

    @property
    def is_cuda(self) -> bool:
        """Whether memory and graphs are CUDA's."""
        return self.device.type == "cuda"

    @property
    def size(self) -> str:
        """Name of the sizes that fit the device."""
        return "large" if self.is_cuda else "small"

    def add(self, table: str, name: str, measure: Callable[[], Row]) -> None:
        """Append a row; where measuring fails or there is no time left, one that says so.

        Args:
            table (`str`): Of the report.
            name (`str`): Of the row.
            measure (`Callable`): Returns the row.
        """
        if time.monotonic() > self.end:
            row: Row = {"note": "not run: no time left"}
        else:
            self.free()
            start = time.monotonic()
            try:
                row = measure()
            except Exception as error:  # a row of the report, so that one failure does not cost all the others
                text = str(error).strip().splitlines() or [""]
                row = {"note": f"failed: {type(error).__name__}: {text[0][:160]}"}
            row["took s"] = round(time.monotonic() - start, 1)
            if self.is_cuda and "note" not in row:
                row["peak MiB"] = round(torch.cuda.max_memory_allocated() / 2**20)
        self.tables.setdefault(table, []).append({"what": name} | row)
        print(table, self.tables[table][-1], flush=True)

    def free(self) -> None:
        """Give memory back and begin a new peak."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Wait for what the device was given."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the median time of a run."""
        times = []
        for index in range(WARMUP + self.rounds):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            if index >= WARMUP:
                times.append(time.perf_counter() - start)
        return statistics.median(times)

    def move(self, inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Return a batch on the device, its floats in `dtype`."""
        return {
            name: value.to(self.device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }


def agree(ours: torch.Tensor, theirs: torch.Tensor) -> Row:
    """Compare logits with those of the reference."""
    ours, theirs = ours.float().cpu(), theirs.float().cpu()
    error = (ours - theirs).abs()
    return {
        "largest error / spread": float(error.max() / theirs.std()),
        "mean error / spread": float(error.mean() / theirs.std()),
        "same choice": float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    }


@torch.no_grad()
def compare_with_cpu(session: Session) -> None:
    """Compare each whole model in each dtype with float32 on the CPU."""
    for name, build in (("nano", nano), ("assembly", lambda: assembly(session.size))):
        contestant = build()
        outputs = contestant.model(**contestant.inputs)
        expected = {"text": outputs.logits, "talker": outputs.talker_logits}
        for dtype_name, dtype in DTYPES.items():

            def measure(contestant: Contestant = contestant, expected: Any = expected, dtype: Any = dtype) -> Row:
                model = copy.deepcopy(contestant.model).to(session.device)
                for part in (model.thinker, model.talker):  # codecs stay in float32
                    part.to(dtype)
                outputs = model(**session.move(contestant.inputs, dtype))
                assert outputs.loss.isfinite(), "the loss must be finite"
                text, speech = agree(outputs.logits, expected["text"]), agree(outputs.talker_logits, expected["talker"])
                return text | {f"talker: {key}": value for key, value in speech.items()}

            session.add("Agreement with float32 on the CPU", f"{name}, {dtype_name}", measure)


def attentions(session: Session) -> list[str]:
    """Return the attentions of transformers that are installed here; flex attention has to be compiled."""
    names = ["eager", "sdpa", *(["flex_attention"] if session.is_cuda else [])]
    names += ["flash_attention_2"] if is_flash_attn_2_available() else []
    return names + (["flash_attention_3"] if is_flash_attn_3_available() else [])


@torch.no_grad()
def compare_attentions(session: Session) -> None:
    """Compare each attention with the eager one, in bfloat16 on an accelerator."""
    dtype = torch.bfloat16 if session.is_cuda else torch.float32
    contestant = nano()
    contestant.model.to(session.device)
    contestant.model.thinker.to(dtype)
    contestant.model.talker.to(dtype)
    inputs = session.move(contestant.inputs, dtype)
    contestant.model.set_attn_implementation("eager")
    expected = contestant.model(**inputs).logits
    for name in attentions(session):

        def measure(name: str = name) -> Row:
            contestant.model.set_attn_implementation(name)
            logits = contestant.model(**inputs).logits
            return agree(logits, expected) | {"ms": 1000 * session.seconds(lambda: contestant.model(**inputs))}

        session.add("Attention", name, measure)


def train_step(session: Session, contestant: Contestant, dtype: torch.dtype) -> Row:
    """Run one training step under autocast of `dtype`, plainly in float32; return its time and what it found.

    Args:
        session ([`Session`]): Device and clock.
        contestant ([`Contestant`]): Model and inputs.
        dtype (`torch.dtype`): Of the autocast; float32 for none.
    """
    model = contestant.model.to(session.device).train()
    inputs = session.move(contestant.inputs, torch.float32)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    scaler = torch.amp.GradScaler(session.device.type, enabled=dtype == torch.float16 and session.is_cuda)
    losses = []

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(session.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**inputs).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        losses.append(loss.detach())
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()

    seconds = session.seconds(run)
    # Asked of the parameters: the last step may have been one that the scaler left out.
    finite = all(parameter.isfinite().all() for parameter in model.parameters())
    assert bool(torch.stack(losses).isfinite().all()), "losses must be finite"
    assert finite, "parameters must be finite after the step"
    return {"ms": 1000 * seconds, "loss": float(losses[-1])}


def train_every_part(session: Session) -> None:
    """Take a step of each part in each dtype."""
    for name, build in parts(session.size).items():
        for dtype_name, dtype in DTYPES.items():
            session.add(
                "A training step",
                f"{name}, {dtype_name}",
                lambda build=build, dtype=dtype: train_step(session, build(), dtype),
            )


def modes(session: Session) -> dict[str, str | None]:
    """Return the ways to run a model: as it is, compiled, and as CUDA graphs."""
    return {"eager": None} | ({"compiled": "default", "CUDA graphs": "reduce-overhead"} if session.is_cuda else {})


@torch.inference_mode()
def time_text(session: Session, model: Any, mode: str | None) -> Row:
    """Time `generate` of a language model.

    Args:
        session ([`Session`]): Device and clock.
        model: The language model.
        mode (`str`, *optional*): Of `torch.compile`; not compiled when `None`.
    """
    prompt = torch.randint(10, 300, (1, PROMPT), device=session.device)
    options: dict[str, Any] = dict(max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False)
    if mode is not None:
        options |= dict(cache_implementation="static", compile_config=CompileConfig(mode=mode, fullgraph=False))
    return {"a second": TOKENS / session.seconds(lambda: model.generate(prompt, **options))}


class StaticTalker:
    """The Talker's loop over caches of fixed size, a frame being one graph: backbone, head and depth decoder.

    Args:
        talker ([`JosieTalkerForConditionalGeneration`]): The Talker.
        mode (`str`): Of `torch.compile`.
    """

    def __init__(self, talker: Any, mode: str):
        self.talker = talker
        self.cache = StaticCache(config=talker.config, max_cache_len=FRAMES + 2)
        self.sampler = CodeSampler()
        start = talker.embed_start(1, None)
        self.loop = talker.depth_decoder.make_loop(1, start)
        for states in self.loop.cache.states:
            torch._dynamo.mark_static_address(states)
        self.step = torch.compile(self._step, mode=mode, fullgraph=True)

    def _step(self, embeds: torch.Tensor) -> torch.Tensor:
        state = self.talker.model(embeds, cache=self.cache).last_hidden_state[:, 0]
        first = self.talker.head(state).argmax(dim=-1)
        return self.talker.depth_decoder.generate(state, first, self.sampler, self.loop)

    def run(self, text: torch.Tensor) -> torch.Tensor:
        """Say `FRAMES` frames that read `(1, FRAMES, width)`; nothing waits for the device in between."""
        self.cache.reset()
        self.talker.model(self.talker.embed_start(1, None), cache=self.cache)
        codes = torch.full((1, self.talker.config.num_quantizers), self.talker.config.codebook_size, device=text.device)
        frames = []
        for index in range(FRAMES):
            torch.compiler.cudagraph_mark_step_begin()
            embeds = text[:, index : index + 1] + self.talker.code_embedding(codes[:, :, None])
            codes = self.step(embeds).clone()
            frames.append(codes)
        return torch.stack(frames, dim=2)


@torch.inference_mode()
def time_talker(session: Session, talker: Any, mode: str | None) -> Row:
    """Time the Talker.

    Args:
        talker: The Talker.
        session, mode: As of [`time_text`].
    """
    width = talker.config.thinker_hidden_size
    states = torch.randn(1, PROMPT, width, device=session.device, dtype=talker.dtype)
    if mode is None:
        return {"a second": FRAMES / session.seconds(lambda: talker.generate(states, states, max_new_frames=FRAMES))}
    text = torch.randn(1, FRAMES, talker.config.hidden_size, device=session.device, dtype=talker.dtype)
    static = StaticTalker(talker, mode)
    return {"a second": FRAMES / session.seconds(lambda: static.run(text))}


@torch.inference_mode()
def time_csm(session: Session, csm: Any, mode: str | None) -> Row:
    """Time CSM; with static caches its `generate` compiles by itself.

    Args:
        csm: The model.
        session, mode: As of [`time_text`].
    """
    prompt = torch.randint(10, 5000, (1, PROMPT), device=session.device)
    options: dict[str, Any] = dict(
        max_new_tokens=FRAMES, do_sample=False, depth_decoder_do_sample=False, output_audio=False
    )
    if mode is not None:
        config = CompileConfig(mode=mode, fullgraph=False)
        options |= dict(cache_implementation="static", compile_config=config)
        options |= dict(depth_decoder_cache_implementation="static", depth_decoder_compile_config=config)
    return {"a second": FRAMES / session.seconds(lambda: csm.generate(prompt, **options))}


@torch.inference_mode()
def time_codec(session: Session, codec: Any, mode: str | None) -> Row:
    """Time encoding and decoding of four seconds.

    Args:
        codec: The codec.
        session, mode: As of [`time_text`].
    """
    waveform = 0.1 * torch.randn(1, 1, SECONDS * 24000, device=session.device)
    encode, decode = codec.encode, codec.decode
    codes = encode(waveform, return_dict=False)[0].clone()
    if mode is not None:
        encode, decode = torch.compile(encode, mode=mode), torch.compile(decode, mode=mode)
    return {
        "encodes, audio s a second": SECONDS / session.seconds(lambda: encode(waveform)),
        "decodes, audio s a second": SECONDS / session.seconds(lambda: decode(codes)),
    }


def compare_speed(session: Session) -> None:
    """Time each part of ours beside its peer, in each mode; models in bfloat16 on an accelerator, codecs in float32."""
    timers = {"Thinker": (time_text, time_text), "Talker": (time_talker, time_csm), "codec": (time_codec, time_codec)}
    peers = {"Thinker": "Llama", "Talker": "CSM", "codec": "Mimi"}
    for name, models in speed_pairs(session.size).items():
        for model in models:
            dtype = torch.bfloat16 if session.is_cuda and name != "codec" else torch.float32
            model.to(session.device, dtype)
        for mode_name, mode in modes(session).items():
            for who, model, timer in zip((f"JOSIE {name}", peers[name]), models, timers[name], strict=True):
                session.add(
                    "Speed",
                    f"{who}, {mode_name}",
                    lambda model=model, mode=mode, timer=timer: timer(session, model, mode),
                )


def machine(session: Session) -> str:
    """Return one line that says where this ran."""
    name = torch.cuda.get_device_name(session.device) if session.is_cuda else find_processor()
    return (
        f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} CPU threads, {date.today()}"
    )


def write_table(rows: list[Row]) -> str:
    """Return rows as a Markdown table; a column for every key."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def show(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(show(row.get(name, "")) for name in names) + " |" for row in rows)])


def write_report(session: Session, out: Path) -> None:
    """Write `out`.json and `out`.md."""
    where = machine(session)
    out.with_suffix(".json").write_text(json.dumps({"machine": where, "tables": session.tables}, indent=2) + "\n")
    pages = [f"# JOSIE on {where}", *(f"## {name}\n\n{write_table(rows)}" for name, rows in session.tables.items())]
    out.with_suffix(".md").write_text("\n\n".join(pages) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Measure everything and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new begins")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contestant")
    parser.add_argument("--out", type=Path, default=Path("on_gpu"), help="report, without its ending")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"`--device` must be a device of this machine, got {arguments.device!r}.")
    if arguments.rounds < 1 or arguments.minutes <= 0:
        raise SystemExit("`--rounds` and `--minutes` must be above 0.")
    session = Session(device, arguments.minutes, arguments.rounds)
    for section in (compare_with_cpu, compare_attentions, train_every_part, compare_speed):
        section(session)
        write_report(session, arguments.out)  # after each, so that what ends early leaves what it found


if __name__ == "__main__":
    main()
