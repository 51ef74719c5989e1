"""The Thinker: tokens, audio and images to text.

Reading order: `inputs`, `text`, `audio_encoder`, `vision_encoder`; `front_ends`, `audio_front_end`,
`vision_front_end`; `gaps`, `media`, `input_stream`, `model`; `generation`, `generation_options`, `row_draws`,
`state_listener`.
"""
