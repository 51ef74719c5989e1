"""The command line, `josie`.

Reading order: `app` (all commands); `generate` (with `playback` and `streamed_speech`), `chat` (with `lines`), `serve`,
`duplex`, `live` (with `live_audio`), `codec` (with `codec_inputs`, `codec_files`, `codec_images` and `codec_streams`),
`info`, `make`, `assemble`, `encode`, `evaluate`; and what they share: `options`, `media`, `checkpoints`, `devices`,
`progress`, `output`, `shared`.
"""
