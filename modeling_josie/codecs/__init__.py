"""JODIO, the mel codec, JOVIO."""
