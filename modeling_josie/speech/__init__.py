"""Speech while it is written. Read `speaker`, then `streamers`, `pieces`, `flowing_text`, `streamed_generation`."""
