"""Byte strings near a good one: the interesting neighbourhood for a strict reader."""

from hypothesis import strategies as st


@st.composite
def near(draw: st.DrawFn, good: bytes) -> bytes:
    """``good`` with one fault, or by chance none: a flip, a cut, an insertion, a repetition or noise."""
    at = draw(st.integers(min_value=0, max_value=len(good)))
    fault = draw(st.sampled_from(("flip", "cut", "insert", "remove", "overwrite", "extend", "noise")))
    if fault == "flip" and at < len(good):
        return good[:at] + bytes([good[at] ^ (1 << draw(st.integers(0, 7)))]) + good[at + 1 :]
    if fault == "cut":
        return good[:at]
    if fault == "insert":
        return good[:at] + draw(st.binary(min_size=1, max_size=8)) + good[at:]
    if fault == "remove":
        return good[:at] + good[at + draw(st.integers(1, 8)) :]
    if fault == "overwrite":
        patch = draw(st.binary(min_size=1, max_size=16))
        return (good[:at] + patch + good[at + len(patch) :])[: len(good)]
    if fault == "extend":
        return good + draw(st.binary(min_size=1, max_size=64))
    return draw(st.binary(max_size=256))
