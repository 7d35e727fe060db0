"""Figures: each is data that can draw itself, and becomes inline SVG that follows the page."""
