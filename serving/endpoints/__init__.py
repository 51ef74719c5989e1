"""Endpoints of OpenAI's HTTP interface.

Reading order: `bodies` (requests in, events out), `speech` (with `containers` and `spoken_words`), `chat` (with
`chat_messages`), `transcription`.
"""
