"""Speech while the text is written.

Reading order: `speaker`, `streamers`, `pieces`, `flowing_text`, `sentences`, `reading`, `streamed_generation`.
"""
