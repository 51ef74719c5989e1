"""Losses.

Reading order: `targets` (tokens and codes), `unused_parts`; `audio`, `images`.
"""
