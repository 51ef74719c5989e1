"""Speech while it is written. Read `speaker`, then `pieces`, then `streamed_generation`."""
