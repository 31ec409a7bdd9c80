"""
The user service under a real systemd: alice installs it, it moves her cache, and she gets rid of it again.

One container for the whole file; the tests build on each other and run in order.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig.machine import Machine, booted, why_no_machine, within

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

SECRET = "pa55-that-nobody-may-see"
CONFIG = f"""
[watch]
high = "80%"
low = "60%"
flood = "97%"
dwell = "1s"
cooldown = "1s"
[data]
disks = ["/data1/alice"]
[move]
min_size = "1 MiB"
settle = "1s"
[notify]
urls = ["json://alice:{SECRET}@127.0.0.1:9/hook"]
"""
UNIT = "survived.service"
PIP = "/home/alice/.cache/pip"
HUB = "/home/alice/.cache/huggingface/hub"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Boot the container once."""
    if reason := why_no_machine():
        pytest.skip(reason)
    with booted(tmp_path_factory.mktemp("service")) as machine:
        yield machine


def _status(machine: Machine) -> dict[str, Any]:
    return dict(json.loads(machine.out("survivectl status --json")))


def _cache(machine: Machine, path: str) -> dict[str, Any]:
    (found,) = [cache for cache in _status(machine)["caches"] if cache["path"] == path]
    return dict(found)


def _digest(machine: Machine, path: str) -> str:
    return machine.out(f"cd {path}/ && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum")


def _is_link(machine: Machine, path: str) -> bool:
    return machine.run(f"test -L {path}", check=False).returncode == 0


def _fill_hub(machine: Machine) -> None:
    """Make 12,000 small files, so that copying them lasts long enough to be interrupted."""
    code = (
        f"import os; top = '{HUB}'\n"
        "for n in range(12000):\n"
        "    folder = f'{top}/models--x/blobs/{n // 500}'; os.makedirs(folder, exist_ok=True)\n"
        "    open(f'{folder}/{n}', 'wb').write(b'%d' % n * 900)\n"
    )
    machine.run(f'python3 -c "{code}"')


def test_without_a_terminal_install_wants_yes(machine: Machine) -> None:
    """In a pipe install refuses with 2, shows the command and changes nothing."""
    done = machine.run("survivectl install </dev/null", check=False)
    assert done.returncode == 2
    assert "survivectl install --yes" in done.stderr
    assert machine.out("ls -A ~/.config 2>/dev/null | grep -c survived || true") == "0"


def test_install_puts_a_running_service_in_place(machine: Machine) -> None:
    """One command finds the data disks, writes the configuration, and the unit is active, which means READY."""
    document = json.loads(machine.out("survivectl install --yes --json"))
    assert document["disks"] == ["/data1/alice", "/data2/alice"]
    assert document["service"] == {"name": UNIT, "enabled": True, "active": True, "reason": None}
    assert document["linger"]["enabled"] is True
    assert (machine.show("Type"), machine.show("ActiveState")) == ("notify", "active")
    assert machine.out("stat -c %a ~/.config/survived/config.toml") == "600"
    assert machine.run("systemd-analyze --user verify ~/.config/systemd/user/survived.service").stderr == ""


def test_install_again_disturbs_nothing(machine: Machine) -> None:
    """A second install keeps the running process and the configuration."""
    pid = machine.show("MainPID")
    assert "Kept the configuration" in machine.out("survivectl install --yes")
    assert machine.show("MainPID") == pid


def test_the_daemon_answers_and_is_light(machine: Machine) -> None:
    """Status comes over the socket; the process is idle class, nice, and below 45 MiB."""
    status = _status(machine)
    assert status["schema"] == 1
    assert status["daemon"]["running"] is True
    pid = machine.show("MainPID")
    assert str(status["daemon"]["pid"]) == pid
    assert machine.show("StatusText") != ""
    assert "idle" in machine.out(f"ionice -p {pid}")
    assert machine.out(f"ps -o nice= -p {pid}") == "10"
    resident = int(machine.out(f"awk '/^VmRSS/{{print $2}}' /proc/{pid}/status"))
    assert resident <= 45 * 1024
    assert machine.out("stat -c %a $XDG_RUNTIME_DIR/survived/control.sock") == "600"
    assert machine.run("survivectl status --json", user="bob", check=False).stdout.find('"running": true') == -1


def test_reload_takes_a_new_configuration_and_keeps_the_old_one_when_it_is_wrong(machine: Machine) -> None:
    """systemctl reload changes the marks in the same process; a misspelt key changes nothing."""
    pid = machine.show("MainPID")
    path = "/home/alice/.config/survived/config.toml"
    machine.write(path, CONFIG)
    machine.run(f"systemctl --user reload {UNIT}")
    assert within(5, lambda: _status(machine)["filesystems"][0]["high"] == 0.8)
    machine.write(path, CONFIG.replace("high", "hihg"))
    machine.run(f"systemctl --user reload {UNIT}")
    assert within(5, lambda: "hihg" in machine.out(f"journalctl --user -u {UNIT} -o cat"))
    assert _status(machine)["filesystems"][0]["high"] == 0.8
    machine.write(path, CONFIG)
    machine.run(f"systemctl --user reload {UNIT}")
    assert machine.show("MainPID") == pid


def test_a_full_disk_moves_the_cache_and_every_file_still_opens(machine: Machine) -> None:
    """Above high the daemon moves pip's cache to the data disk by itself and usage falls below low."""
    machine.run(f"mkdir -p {PIP}/http-v2; for n in $(seq 70); do head -c 1M /dev/urandom >{PIP}/http-v2/$n; done")
    before = _digest(machine, PIP)
    machine.run("fallocate -l 115M ~/experiment.ckpt")
    assert within(30, lambda: _is_link(machine, PIP)), machine.out(f"journalctl --user -u {UNIT} -o cat | tail -20")
    assert machine.out(f"readlink {PIP}").startswith("/data1/alice/survived/trees/")
    assert _digest(machine, PIP) == before
    assert within(10, lambda: _status(machine)["pressure"] == "normal")
    assert max(found["usage"] for found in _status(machine)["filesystems"]) < 0.6
    assert _cache(machine, PIP)["state"] == "relocated"


def test_the_journal_knows_what_each_message_is_about(machine: Machine) -> None:
    """journalctl finds what happened to one cache by its field, under our unit; journalctl -x explains it by the catalogue."""
    fields = "MESSAGE,MESSAGE_ID,PRIORITY,SURVIVED_EVENT,SURVIVED_PATH,SURVIVED_MOUNT,_SYSTEMD_USER_UNIT"
    lines = machine.out(f"journalctl --user SURVIVED_CACHE=pip -o json --output-fields={fields}").splitlines()
    entries = {entry["SURVIVED_EVENT"]: entry for entry in map(json.loads, lines)}
    assert {"move_begun", "move_done"} <= set(entries)
    done = entries["move_done"]
    assert (done["PRIORITY"], done["SURVIVED_PATH"], done["_SYSTEMD_USER_UNIT"]) == ("6", PIP, UNIT)
    assert done["SURVIVED_MOUNT"].startswith("/")
    catalogue = "/usr/local/lib/systemd/catalog"
    command = f"{machine.program}/bin/survivectl metrics catalog >{catalogue}/survived.catalog && journalctl --update-catalog"
    machine.root(f"mkdir -p {catalogue} && {command}")
    said = machine.out("journalctl --user -x --no-pager SURVIVED_CACHE=pip")
    assert "Subject: pip was moved" in said
    assert "survivectl restore pip" in said
    assert machine.out(f"journalctl --user -u {UNIT} -p warning -o cat SURVIVED_CACHE=pip") == ""


def test_a_stop_in_the_middle_of_a_copy_takes_less_than_five_seconds(machine: Machine) -> None:
    """SIGTERM while files are copied ends the daemon cleanly, and the path is whole at once."""
    machine.run("survivectl pause 1h")
    _fill_hub(machine)
    before = _digest(machine, HUB)
    machine.run("fallocate -l 85M ~/more.ckpt; survivectl resume")
    # Watched from inside: a session for every look would miss the copy.
    waiting = "for i in $(seq 600); do ls /data1/alice/survived/staging/*/* >/dev/null 2>&1 && break; sleep 0.05; done"
    seconds = machine.out(f"{waiting}; t=$(date +%s%N); systemctl --user stop {UNIT}; echo $((($(date +%s%N) - t) / 1000000))")
    assert int(seconds) < 5000
    assert machine.show("Result") == "success"
    assert not _is_link(machine, HUB)
    assert _digest(machine, HUB) == before


def test_after_kill_9_in_the_middle_of_a_copy_systemd_brings_it_back_and_the_move_is_finished(machine: Machine) -> None:
    """A killed daemon is restarted by systemd, cleans up by itself and moves the cache; no byte changes."""
    before = _digest(machine, HUB)
    waiting = "for i in $(seq 600); do ls /data1/alice/survived/staging/*/* >/dev/null 2>&1 && break; sleep 0.02; done"
    machine.run(f"systemctl --user start {UNIT}; {waiting}; systemctl --user kill -s KILL --kill-whom=main {UNIT}")
    assert _digest(machine, HUB) == before
    assert within(40, lambda: _is_link(machine, HUB), 0.5), machine.out(f"journalctl --user -u {UNIT} -o cat | tail -20")
    assert machine.show("NRestarts") == "1"
    assert _digest(machine, HUB) == before
    assert within(10, lambda: machine.out("ls -A /data1/alice/survived/staging") == "")
    assert machine.out("ls -A ~/.cache/huggingface") == "hub"


def test_a_hung_daemon_is_restarted_by_the_watchdog_and_a_healthy_one_is_not(machine: Machine) -> None:
    """With two seconds of watchdog the daemon lives on for longer; stopped by SIGSTOP it is replaced."""
    drop_in = "/home/alice/.config/systemd/user/survived.service.d/quick.conf"
    machine.write(drop_in, "[Service]\nWatchdogSec=2s\nRestartSec=100ms\n")
    machine.run(f"systemctl --user daemon-reload; systemctl --user restart {UNIT}")
    pid, restarts = machine.show("MainPID"), int(machine.show("NRestarts"))
    time.sleep(4)
    assert machine.show("MainPID") == pid
    machine.run(f"systemctl --user kill -s STOP --kill-whom=main {UNIT}")
    assert within(15, lambda: int(machine.show("NRestarts")) == restarts + 1 and machine.show("ActiveState") == "active")
    machine.run(f"rm -r {drop_in.rpartition('/')[0]}; systemctl --user daemon-reload; systemctl --user restart {UNIT}")


def test_logs_are_quiet_and_hold_no_secret(machine: Machine) -> None:
    """No traceback was logged, nothing is logged while nothing happens, and the notify password is nowhere."""
    machine.run("survivectl notify test", check=False)
    log = machine.out(f"journalctl --user -u {UNIT} -o cat")
    assert "Traceback" not in log
    lines = len(log.splitlines())
    time.sleep(2)
    assert len(machine.out(f"journalctl --user -u {UNIT} -o cat").splitlines()) == lines
    seen = log + machine.out("survivectl status; survivectl status --json; survivectl plan --json; survivectl check || true")
    assert SECRET not in seen + machine.root("ps axww -o args")


def test_a_wrong_configuration_fails_once_and_does_not_loop(machine: Machine) -> None:
    """Exit 6 leaves the unit failed with one sentence in the journal instead of a restart every few seconds."""
    path = "/home/alice/.config/survived/config.toml"
    machine.run(f"systemctl --user stop {UNIT}")
    machine.write(path, CONFIG.replace("high", "hihg"))
    assert machine.run(f"systemctl --user start {UNIT}", check=False).returncode != 0
    assert within(5, lambda: machine.show("ActiveState") == "failed")
    assert machine.show("ExecMainStatus") == "6"
    machine.write(path, CONFIG)
    machine.run(f"systemctl --user reset-failed {UNIT}; systemctl --user start {UNIT}")


def test_uninstall_takes_back_what_install_did_and_names_what_is_still_relocated(machine: Machine) -> None:
    """Unit and state are gone, the edited configuration and the links stay and work, and the way home is shown."""
    before = _digest(machine, PIP)
    out = machine.out("survivectl uninstall")
    assert f"{PIP} -> /data1/alice/survived/trees" in out
    assert "survivectl restore --all" in out
    assert "Kept '/home/alice/.config/survived/config.toml'" in out
    assert machine.run(f"systemctl --user cat {UNIT}", check=False).returncode != 0
    assert machine.out("ls -A ~/.config/systemd/user 2>/dev/null || true") == ""
    assert machine.run("pgrep -u alice -f 'm survived'", check=False).stdout == ""
    assert _digest(machine, PIP) == before
    assert machine.out("rm ~/*.ckpt; survivectl restore --all >/dev/null; ls -ld ~/.cache/pip | cut -c1") == "d"
    assert _digest(machine, PIP) == before


def test_an_untouched_install_leaves_nothing_behind(machine: Machine) -> None:
    """What bob installs and uninstalls without touching it leaves his home, and his linger, as they were."""
    machine.root("loginctl disable-linger bob")
    listing = "find ~ -not -name '.bash*' | sort"
    before = machine.out(listing, user="bob")
    document = json.loads(machine.out("survivectl install --yes --disk /data1/bob --json", user="bob"))
    assert document["linger"] == {"enabled": True, "command": None}
    config = machine.out("cat ~/.config/survived/config.toml", user="bob")
    assert re.search(r'^disks = \["/data1/bob"\]', config, re.MULTILINE)
    machine.run("survivectl uninstall", user="bob")
    assert machine.out(listing, user="bob") == before
    assert machine.root("ls /var/lib/systemd/linger") == "alice"


def test_root_mode_is_a_system_service_with_its_configuration_in_etc(machine: Machine) -> None:
    """As root the same two commands put a system unit in place, answer at /run/survived, and take it back."""
    control = f"env -u XDG_RUNTIME_DIR HOME=/root PATH={machine.program}/bin:$PATH survivectl"
    document = json.loads(machine.root(f"{control} install --yes --json"))
    assert document["service"] == {"name": UNIT, "enabled": True, "active": True, "reason": None}
    assert document["config"]["path"] == "/etc/survived/config.toml"
    assert machine.root("stat -c %a /run/survived/control.sock") == "600"
    assert json.loads(machine.root(f"{control} status --json"))["daemon"]["running"] is True
    machine.root(f"{control} uninstall")
    assert machine.root("ls -d /etc/survived /etc/systemd/system/survived.service /var/lib/survived 2>/dev/null || true") == ""
