"""Other people's checkpoints into JOSIE's, and JOSIE's onto the Hub. Each module stands for itself: import from it."""
