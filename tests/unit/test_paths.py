"""Our own files lie where XDG or root mode puts them, and a client finds the daemon's socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from survived.settings.paths import client_socket, resolve_paths

if TYPE_CHECKING:
    from pathlib import Path

HOME = "/home/alice"


def test_an_ordinary_user_without_xdg(tmp_path: Path) -> None:
    """Without XDG variables everything lies below the home, and the socket below /tmp when there is no /run/user."""
    paths = resolve_paths({}, HOME, 1234, root=str(tmp_path))
    assert str(paths.config_file) == "/home/alice/.config/survived/config.toml"
    assert str(paths.state_dir) == "/home/alice/.local/state/survived"
    assert str(paths.unit_file) == "/home/alice/.config/systemd/user/survived.service"
    assert paths.runtime_dir == tmp_path / "tmp/survived-1234"
    assert paths.socket == paths.runtime_dir / "control.sock"
    assert paths.lock_file.parent == paths.runtime_dir
    assert not paths.root_mode


def test_the_runtime_directory_of_logind_is_used_when_it_exists(tmp_path: Path) -> None:
    """A cron job without XDG_RUNTIME_DIR still finds the daemon that was started in a session."""
    (tmp_path / "run/user/1234").mkdir(parents=True)
    assert resolve_paths({}, HOME, 1234, root=str(tmp_path)).socket == tmp_path / "run/user/1234/survived/control.sock"


def test_xdg_variables_win() -> None:
    """Each XDG variable moves its own part."""
    env = {"XDG_CONFIG_HOME": "/c", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}
    paths = resolve_paths(env, HOME, 1234)
    assert str(paths.config_file) == "/c/survived/config.toml"
    assert str(paths.unit_file) == "/c/systemd/user/survived.service"
    assert str(paths.state_dir) == "/s/survived"
    assert str(paths.socket) == "/r/survived/control.sock"


def test_relative_xdg_variables_are_ignored(tmp_path: Path) -> None:
    """A relative or empty XDG variable is as good as none."""
    wrong = {"XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": "./r"}
    assert resolve_paths(wrong, HOME, 1234, root=str(tmp_path)) == resolve_paths({}, HOME, 1234, root=str(tmp_path))


def test_root_mode(tmp_path: Path) -> None:
    """Root without a configuration of its own is in root mode: /etc, /run, /var/lib."""
    paths = resolve_paths({}, str(tmp_path / "root"), 0, root=str(tmp_path))
    assert paths.root_mode
    assert paths.config_file == tmp_path / "etc/survived/config.toml"
    assert paths.socket == tmp_path / "run/survived/control.sock"
    assert paths.state_dir == tmp_path / "var/lib/survived"
    assert paths.unit_file == tmp_path / "etc/systemd/system/survived.service"


@pytest.mark.parametrize("by", ["file", "variable"])
def test_root_with_a_configuration_of_its_own_is_a_user(tmp_path: Path, by: str) -> None:
    """A config.toml in root's home, or XDG_CONFIG_HOME, makes root an ordinary user."""
    home = tmp_path / "root"
    file = home / ".config/survived/config.toml"
    file.parent.mkdir(parents=True)
    if by == "file":
        file.touch()
    env = {"XDG_CONFIG_HOME": str(home / ".config")} if by == "variable" else {}
    paths = resolve_paths(env, str(home), 0, root=str(tmp_path))
    assert not paths.root_mode
    assert paths.config_file == file
    assert paths.state_dir == home / ".local/state/survived"
    assert paths.unit_file == home / ".config/systemd/user/survived.service"


def test_a_root_shell_asks_the_daemon_of_the_system(tmp_path: Path) -> None:
    """Root's client goes to /run/survived only if that socket is there and its session has none."""
    paths = resolve_paths({"XDG_RUNTIME_DIR": str(tmp_path / "session")}, "/root", 0, root=str(tmp_path))
    root = str(tmp_path)
    assert client_socket(paths, root=root) == paths.socket
    system = tmp_path / "run/survived/control.sock"
    system.parent.mkdir(parents=True)
    system.touch()
    assert client_socket(paths, root=root) == system
    paths.socket.parent.mkdir(parents=True)
    paths.socket.touch()
    assert client_socket(paths, root=root) == paths.socket


def test_a_users_client_never_asks_the_daemon_of_the_system(tmp_path: Path) -> None:
    """An ordinary user's client stays with its own socket."""
    system = tmp_path / "run/survived/control.sock"
    system.parent.mkdir(parents=True)
    system.touch()
    paths = resolve_paths({"XDG_RUNTIME_DIR": "/r"}, HOME, 1234, root=str(tmp_path))
    assert client_socket(paths, root=str(tmp_path)) == paths.socket
