"""From μOmni."""
