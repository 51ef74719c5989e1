"""Parts that the training recipes share. In reading order:

| file | what |
| --- | --- |
| `configuration.py` | the command line, and sections of a JSON or YAML file as dataclasses |
| `runs.py` | start, stop on a signal, resume |
| `trainer_settings.py` | the section `trainer`, obeyed or refused |
| `places.py` | places on the disk that are to be filled, and a run's own folder |
| `run_log.py` | the log with the hours of training |
| `models.py`, `named_models.py` | the model a recipe starts from or a command names, and the folder it leaves |
| `model_cards.py` | the card of that folder |
| `streams.py`, `data_sets.py` | endless streams, and data sets that a source names |
| `conversations.py` | rows with `messages`: sources, splits, mixtures |
| `spoken_rows.py` | codes of the assistant's recordings |
| `audio_ctc.py` | connectionist temporal classification beside the Thinker's loss |
| `answers.py` | written answers compared with the expected ones |
| `text_data.py`, `debian_texts.py` | texts, and blocks of tokens |
| `speech_data.py`, `speech_folders.py`, `audio_codec_report.py` | recordings for audio codecs, and the report of one |
| `image_data.py`, `vision_codec_report.py` | images for vision codecs, and the report of one |
| `debian.py` | downloads of Debian packages |
"""
