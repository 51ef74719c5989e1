"""The command line, `josie`.

Reading order: `app` (all commands); `generate`, `chat` (with `lines` and `playback`), `codec` (with `codec_inputs`,
`codec_files`, `codec_images` and `codec_streams`), `info`, `make`, `assemble`, `encode`, `evaluate`; and what they
share: `options`, `media`, `checkpoints`, `devices`, `progress`, `shared`.
"""
