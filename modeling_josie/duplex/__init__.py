"""Full duplex: listening while speaking, unit by unit.

Reading order: `listening`, `memory`, `voice`, `state`, `state_files`, `reading`, `steps`, `samples`, `session`.
"""
