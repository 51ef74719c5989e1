"""The Talker: text to codes of speech, frame by frame.

Reading order: `model` (training), `text_reading`, `duration_predictor`, `spoken_turns`; `generation` with `decoding`
and `depth_decoder`; `speech_stream`, `timeline`, `shared_steps`.
"""
