"""JOVIO's encode against vision towers of transformers, side by side in one run, on an image and on a video.

All have patches of 2×16×16 pixels, width 512, 8 layers, 8 heads and MLPs of 2048 with biases and layer norms, so that
the image of 224×224 is 196 tokens and the video of 16 frames 1568. Weights are random, batch 1, float32. Every
contestant begins with pixels. JOVIO's time includes its residual quantizer, 8 codebooks of 1024 vectors of width 64,
which a tower does not have; `without codes` shows it alone.

No single tower does what JOVIO does. Qwen2-VL's has the same patches, also for an image, and rotary positions too; but
its attention stays inside a frame, which on the video saves seven eighths of the pairs, and its final merger is left
out. V-JEPA 2's encoder has rotary positions over time, rows and columns and attends over the whole video, as JOVIO
does, so it is the peer there. VideoMAE attends over the whole video too, and adds fixed positions once at the start.

    python benchmarks/vision_codec.py [--json FILE]
"""

import argparse

import torch
from measure import measure, parse_arguments, report
from torch import nn
from transformers import Qwen2VLVisionConfig, VideoMAEConfig, VideoMAEModel, VJEPA2Config, VJEPA2Model
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from josie import JovioConfig, JovioModel

SIDE, FRAMES = 224, 16
WIDTH, NUM_LAYERS, NUM_HEADS, MLP_WIDTH = 512, 8, 8, 2048
PATCH, TEMPORAL = 16, 2
NUM_QUANTIZERS, CODEBOOK_SIZE, CODEBOOK_DIM = 8, 1024, 64


def build_jovio(causal_time: bool = False) -> JovioModel:
    """Return JOVIO at the common sizes."""
    backbone = {
        "hidden_size": WIDTH,
        "intermediate_size": MLP_WIDTH,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "hidden_act": "gelu",
        "gated_mlp": False,
        "norm_type": "layer",
        "attention_bias": True,
        "mlp_bias": True,
    }
    config = JovioConfig(
        patch_size=PATCH,
        temporal_patch_size=TEMPORAL,
        causal_time=causal_time,
        num_quantizers=NUM_QUANTIZERS,
        codebook_size=CODEBOOK_SIZE,
        codebook_dim=CODEBOOK_DIM,
        encoder_config=backbone,
        decoder_config=dict(backbone, num_hidden_layers=1),
    )
    return JovioModel(config).eval().prepare_for_inference()


def build_qwen() -> Qwen2VisionTransformerPretrainedModel:
    """Return Qwen2-VL's vision tower at the common sizes, without its merger."""
    config = Qwen2VLVisionConfig(
        depth=NUM_LAYERS,
        embed_dim=WIDTH,
        hidden_size=WIDTH,
        num_heads=NUM_HEADS,
        mlp_ratio=MLP_WIDTH // WIDTH,
        hidden_act="gelu",
        patch_size=PATCH,
        temporal_patch_size=TEMPORAL,
    )
    tower = Qwen2VisionTransformerPretrainedModel._from_config(config, attn_implementation="sdpa").eval()
    tower.merger = nn.Identity()
    return tower


def build_vjepa() -> nn.Module:
    """Return V-JEPA 2's encoder at the common sizes."""
    config = VJEPA2Config(
        patch_size=PATCH,
        tubelet_size=TEMPORAL,
        crop_size=SIDE,
        frames_per_clip=FRAMES,
        hidden_size=WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        mlp_ratio=MLP_WIDTH / WIDTH,
        pred_num_hidden_layers=1,
    )
    return VJEPA2Model._from_config(config, attn_implementation="sdpa").eval().encoder


def build_video_mae() -> VideoMAEModel:
    """Return VideoMAE's encoder at the common sizes."""
    config = VideoMAEConfig(
        image_size=SIDE,
        patch_size=PATCH,
        num_frames=FRAMES,
        tubelet_size=TEMPORAL,
        hidden_size=WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        intermediate_size=MLP_WIDTH,
    )
    return VideoMAEModel._from_config(config, attn_implementation="sdpa").eval()


def to_qwen_patches(videos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows of pixels that Qwen2-VL's processor makes of `(1, frames, channels, height, width)`, and grid."""
    if videos.shape[1] == 1:
        videos = videos.expand(-1, TEMPORAL, -1, -1, -1)
    time, rows, columns = videos.shape[1] // TEMPORAL, videos.shape[3] // PATCH, videos.shape[4] // PATCH
    cells = videos.view(time, TEMPORAL, 3, rows // 2, 2, PATCH, columns // 2, 2, PATCH)
    patches = cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(time * rows * columns, -1)
    return patches, torch.tensor([[time, rows, columns]])


def compare_mixed(jovio: JovioModel, arguments: argparse.Namespace) -> None:
    """Measure what padding costs: images of all sizes from 64 to 256 in one batch, and one after the other."""
    sides = torch.tensor([64, 96, 128, 160, 192, 224, 256])
    batch = torch.zeros(len(sides), 3, int(sides.max()), int(sides.max()))
    grids = torch.stack((torch.ones_like(sides), sides // PATCH, sides // PATCH), dim=1)
    images = [torch.rand(1, 3, side, side) for side in sides.tolist()]
    for row, image in zip(batch, images, strict=True):
        row[:, : image.shape[2], : image.shape[3]] = image[0]
    sizes = grids.prod(-1)
    print(
        f"\nSides {sides.tolist()} in one batch: {1 - float(sizes.float().mean() / sizes.max()):.0%} of it is padding."
    )
    contestants = {
        "one batch": lambda: jovio.encode(batch, grids),
        "one by one": lambda: [jovio.encode(image) for image in images],
    }
    seconds = measure(contestants, arguments.rounds)
    report(f"Encode of {len(sides)} images of different sizes", seconds, len(sides), "image", arguments)


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments(__doc__.splitlines()[0])
    torch.manual_seed(0)
    jovio, causal = build_jovio(), build_jovio(causal_time=True)
    qwen, video_mae, vjepa = build_qwen(), build_video_mae(), build_vjepa()
    towers = {"JOVIO's encoder": jovio.encoder, "Qwen2-VL's tower": qwen, "VideoMAE": video_mae, "V-JEPA 2": vjepa}
    for name, tower in towers.items():
        print(f"{name}: {sum(parameter.numel() for parameter in tower.parameters()) / 1e6:.1f} M parameters")

    def look(videos: torch.Tensor) -> torch.Tensor:
        """Do what `encode` does before it quantizes."""
        videos, layout, _ = jovio._read(videos, None, None)
        return jovio._encode(videos, layout)[0]

    for title, num_frames in (("image", 1), ("video of 16 frames", FRAMES)):
        videos = torch.rand(1, num_frames, 3, SIDE, SIDE)
        contestants = {
            "JOVIO": lambda videos=videos: jovio.encode(videos).vision_codes,
            "JOVIO, causal in time": lambda videos=videos: causal.encode(videos).vision_codes,
            "JOVIO without codes": lambda videos=videos: look(videos),
        }
        qwen_run = lambda videos=videos: qwen(*to_qwen_patches(videos)).last_hidden_state  # noqa: E731
        if num_frames == 1:
            contestants["Qwen2-VL"] = qwen_run
        else:
            contestants["Qwen2-VL (frames apart)"] = qwen_run
            contestants["VideoMAE"] = lambda videos=videos: video_mae(videos).last_hidden_state
            contestants["V-JEPA 2"] = lambda videos=videos: vjepa(videos).last_hidden_state
        with torch.inference_mode():
            tokens = {name: run().numel() for name, run in contestants.items()}
        num_tokens = tokens["JOVIO"] // NUM_QUANTIZERS
        assert all(size in (num_tokens * NUM_QUANTIZERS, num_tokens * WIDTH) for size in tokens.values()), tokens
        seconds = measure(contestants, arguments.rounds)
        report(f"Encode of a {title}, {num_tokens} tokens", seconds, num_frames, "frame", arguments)
    compare_mixed(jovio, arguments)


if __name__ == "__main__":
    main()
