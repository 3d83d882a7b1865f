"""Pages in the real Chromium."""
