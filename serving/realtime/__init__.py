"""The realtime protocol: conversations over a WebSocket.

Reading order: `connection` (the WebSocket), `session` (events in), `settings`, `conversation` (with `item_forms`),
`response` (events out), `outbox` (what waits to be sent), `written_words` (transcriptions), `turn_detection` and
`voice_activity` (who speaks when); `duplex` and `turn_feed` (the model says who speaks when).
"""
