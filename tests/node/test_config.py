"""node.toml: every fault at once, nothing guessed, the environment over the file."""

from pathlib import Path

import pytest

from keys.errors import PolicyRefused
from node.config import NodeConfig, default_config_text, load_config
from runtime.env import real_env


def load(directory: Path, text: str | bytes) -> NodeConfig:
    (directory / "node.toml").write_bytes(text.encode() if isinstance(text, str) else text)
    return load_config(real_env().files, str(directory))


def test_what_init_writes_is_read_back(tmp_path: Path) -> None:
    """Chosen ports are taken, every comment shows a value that is the default."""
    text = default_config_text(web_port=7000, health_port=0)
    assert load(tmp_path, text) == NodeConfig(web_port=7000, health_port=0)
    shown = "\n".join(line.lstrip("# ") for line in text.splitlines()[1:])
    assert load(tmp_path, shown) == NodeConfig(web_port=7000, health_port=0)


def test_every_fault_is_named_at_once_with_its_line(tmp_path: Path) -> None:
    """Unknown key, wrong type, out of range, bad language: one refusal."""
    with pytest.raises(PolicyRefused) as caught:
        load(tmp_path, 'web_prot = 1\nweb_port = "7441"\n\nidle_lock_s = 5\nlanguage = "English"\n')
    assert caught.value.code == "config_invalid"
    for part in (
        "line 1, web_prot: unknown key",
        "line 2, web_port",
        "line 4, idle_lock_s",
        "line 5, language",
        "known keys: web_port, health_port",
        "node.toml",
    ):
        assert part in caught.value.detail


@pytest.mark.parametrize("text", [b"\xff\xfe", "web_port =", "a = 1\na = 2", "x" * 70_000, "a=" + "[" * 5000])
def test_what_is_no_toml_is_refused_in_words(tmp_path: Path, text: str | bytes) -> None:
    """Whatever bytes stand there, the answer is a refusal that names the file."""
    with pytest.raises(PolicyRefused) as caught:
        load(tmp_path, text)
    assert caught.value.code == "config_invalid"
    assert "node.toml" in caught.value.detail


def test_the_environment_goes_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is judged by the same rules."""
    monkeypatch.setenv("SALWEEN_NODE_WEB_PORT", "9000")
    monkeypatch.setenv("SALWEEN_NODE_OPENED_RECEIPTS", "false")
    config = load(tmp_path, "web_port = 7441\n")
    assert (config.web_port, config.opened_receipts) == (9000, False)
    monkeypatch.setenv("SALWEEN_NODE_WEB_PORT", "70000")
    with pytest.raises(PolicyRefused, match="web_port"):
        load(tmp_path, "")


def test_a_directory_without_one_names_init(tmp_path: Path) -> None:
    """The next command is in the message."""
    with pytest.raises(PolicyRefused, match="salween-node init") as caught:
        load_config(real_env().files, str(tmp_path))
    assert caught.value.code == "not_initialised"
