"""The world of the nano model, and how it is trained; on two CPU cores, one after the other or as said:

    python examples/make_nano.py record                             # JOSIE's voice
    python examples/train_jodio.py examples/nano_world/codec.json         # that voice as codes
    python examples/make_nano.py start runs/nano/start --from nano/josie --codec runs/nano-codec/model
    python examples/train_talker.py examples/nano_world/talk.json         # reads aloud; can run beside the next four
    python examples/train_sight.py examples/nano_world/see.json           # names what it sees
    python examples/train_thinker.py examples/nano_world/look.json        # answers, and says what it sees
    python examples/train_thinker.py examples/nano_world/hear.json        # a new head that spells what it hears
    python examples/train_thinker.py examples/nano_world/think.json       # hears, sees, answers
    python examples/make_nano.py join runs/nano/think/model runs/nano/talk/model nano/josie
    python examples/make_nano.py test runs/nano/test
    josie evaluate nano --data runs/nano/test/tasks.jsonl

So the weights that ship went on from the ones before them. From nothing, leave out `--from`, and let hearing
take its time: `hear.json --set freeze='["talker"]' trainer.max_steps=4000 trainer.learning_rate=0.0015`.

| file | what |
| --- | --- |
| `scenes.py`, `stamps.py` | images, and which of them training never shows |
| `grammar.py` | what can be asked and said about them, and small talk |
| `sentences.py` | real sentences, and which of them training never has |
| `speech.py`, `timing.py` | flite's voices, recorded once, and when they say each token |
| `sight.py` | images whose patches are named |
| `open_text.py` | English with any words, names and digits |
| `voice.py`, `voice.json` | what JOSIE's voice learns to say; a codec of it and other voices that streams |
| `tasks.py` | conversations of all these, each drawn from its number |
| `start.py`, `model.json` | the model before training |
| `task_files.py` | the test, as files |
"""
