"""Post-hoc multi-rater calibration of segmentation probabilities, at any scale."""
