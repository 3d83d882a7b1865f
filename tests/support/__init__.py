"""What several tests share, and the checks of `make check` that no tool on the market makes."""
