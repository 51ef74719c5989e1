"""The world of nano, and how it is trained from nothing, one after the other or as said:

    python examples/make_nano.py record                             # JOSIE's voice; beside it:
    python examples/make_nano.py voices                             # all that is heard, round by round
    python examples/train_jodio.py examples/nano_world/voice.json   # JOSIE's voice as codes
    python examples/make_nano.py start runs/nano/start --codec runs/nano-voice/model
    python examples/train_talker.py examples/nano_world/talk.json   # reads aloud; can run beside the next five
    python examples/train_sight.py examples/nano_world/see.json     # names what it sees
    python examples/train_thinker.py examples/nano_world/hear.json  # spells what it hears
    python examples/train_thinker.py examples/nano_world/read.json  # gives the tokens of what it hears
    python examples/train_thinker.py examples/nano_world/look.json  # answers in writing, and says what it sees
    python examples/train_thinker.py examples/nano_world/think.json # hears, sees, answers, and when
    python examples/make_nano.py join runs/nano/think/model runs/nano/talk/model runs/nano/josie
    python examples/make_nano.py codec runs/nano-voice/model runs/nano/jodio
    python examples/make_nano.py test runs/nano/test
    josie evaluate runs/nano/josie --data runs/nano/test/tasks.jsonl

Each goes on where it stopped with the same command. `start --from MODEL` takes words and weights of another model.

| file | what |
| --- | --- |
| `scenes.py`, `stamps.py` | images, and which of them training never shows |
| `grammar.py`, `wordings.py` | what can be asked and said about them, and in which words |
| `small_talk.py` | what else is asked |
| `unknown.py` | what is not of this world: questions, images and audio |
| `sentences.py`, `open_text.py` | real sentences: plain ones, and those with any words, names and digits |
| `voices.py`, `hearing.py` | who speaks, and all that is heard, recorded once |
| `speech.py`, `timing.py` | recordings, and when flite's voices say each token |
| `recorded.py` | eight questions for those who have no voices |
| `sight.py` | images whose patches are named |
| `voice.py`, `voice.json` | what JOSIE's voice learns to say; a codec of it and other voices that streams |
| `duplex.py`, `duplex_rows.py` | conversations in which both sides speak when they like, and rows of them |
| `tasks.py` | conversations of all these, each drawn from its number |
| `possible.py` | all that JOSIE may say |
| `start.py`, `model.json` | the model before training |
| `task_files.py` | the test, as files |
"""
