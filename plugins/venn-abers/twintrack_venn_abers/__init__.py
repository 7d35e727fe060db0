"""Venn-Abers calibration for TwinTrack: a calibrator whose maps have a band."""
