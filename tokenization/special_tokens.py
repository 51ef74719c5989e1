"""The special tokens: their names, and their order, which is the order of their ids from 0 on."""

PAD_TOKEN = "<|pad|>"
BOS_TOKEN = "<|begin|>"
EOS_TOKEN = "<|end|>"  # ends a turn as well as a text
SYSTEM_TOKEN = "<|system|>"
USER_TOKEN = "<|user|>"
ASSISTANT_TOKEN = "<|assistant|>"
IMAGE_TOKEN = "<|image|>"
VIDEO_TOKEN = "<|video|>"
AUDIO_TOKEN = "<|audio|>"

# Decisions in full duplex: not in every vocabulary, added by `josie.add_units`.
LISTEN_TOKEN = "<|listen|>"
SPEAK_TOKEN = "<|speak|>"

SPECIAL_TOKENS = (
    PAD_TOKEN,
    BOS_TOKEN,
    EOS_TOKEN,
    SYSTEM_TOKEN,
    USER_TOKEN,
    ASSISTANT_TOKEN,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    AUDIO_TOKEN,
)
