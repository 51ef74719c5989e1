"""Evaluation of what a model writes and says.

Reading order: `tasks` (rows and scores), `answers` (inputs and options), `judge` (the listener), `words` (word errors),
`streaming` (times of speech in pieces), `duplex` (taking turns).
"""
