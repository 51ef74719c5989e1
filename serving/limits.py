"""Limits of what one client may send, hold and take."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes, counts and times of a server.

    Args:
        max_sessions (`int`): Realtime sessions at a time.
        max_jobs (`int`): Answers and texts that are worked at, of all clients together.
        max_body_bytes (`int`): Of an HTTP request, and of an event of a session.
        max_text_length (`int`): Characters of a text, or of all texts of a conversation.
        max_audio_seconds (`float`): Of a clip, and of an input buffer.
        max_image_pixels (`int`): Of an image, before it is decoded.
        max_images (`int`): Of a conversation.
        max_items (`int`): Messages of a conversation.
        max_tokens (`int`): Of an answer.
        max_waiting (`int`): Pieces of an answer that a client has not taken before the making of it pauses.
        max_real_time_factor (`float`): Of speech with one more session, as the last seconds tell it, above which
            that session does not begin.
        max_lateness (`float`): Seconds that a piece of speech was late lately, above which no session begins.
        max_wait (`float`): Seconds for which an answer lately waited for others before it was heard, likewise.
        session_seconds (`float`): Longest session.
        idle_seconds (`float`): Longest time without an event of the client.
        send_seconds (`float`): Longest time that a client takes to take an event.
        response_seconds (`float`): Longest time of an answer.
    """

    max_sessions: int = 8
    max_jobs: int = 32
    max_body_bytes: int = 16 << 20
    max_text_length: int = 32_000
    max_audio_seconds: float = 120.0
    max_image_pixels: int = 24_000_000
    max_images: int = 16
    max_items: int = 500
    max_tokens: int = 1024
    max_waiting: int = 32
    max_real_time_factor: float = 0.9
    max_lateness: float = 0.05
    max_wait: float = 0.4
    session_seconds: float = 3600.0
    idle_seconds: float = 600.0
    send_seconds: float = 20.0
    response_seconds: float = 300.0
