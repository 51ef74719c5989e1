"""From pretrained parts."""
