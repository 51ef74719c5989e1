"""Checkpoints of others into JOSIE's, and JOSIE's onto the Hub.

Rooms: `assemble` (pretrained parts), `muomni` (a seed project), `hub` (code and cards). Beside them `files` (files and
folders that appear when they are complete), `loading` (checkpoints that may be damaged) and `moved` (names of the
release before).
"""
