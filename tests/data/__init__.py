"""Data that later versions must open, and how it was made."""
