"""
An example or three for every verb: what stands at the end of its `--help` and in the manual page.
"""

from __future__ import annotations

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "status": (
        ("survivectl status --watch", "keep it in a corner of the screen"),
        ("PS1='$(survivectl status --short) '\"$PS1\"", "in ~/.bashrc: a word in the prompt when something is wrong"),
        ("set -g status-right '#(survivectl status --short tmux)'", "in ~/.tmux.conf"),
        ("survivectl status --json | jq .pressure", "for scripts"),
    ),
    "plan": (
        ("survivectl plan", "what would be moved, and why the rest stays"),
        ("survivectl plan --explain pip", "every rule that speaks about one cache"),
    ),
    "measure": (
        ("survivectl measure", "every known cache that is there"),
        ("survivectl measure ~/.cache/* ~/miniforge3", "any directories"),
    ),
    "catalog": (
        ("survivectl catalog", "what was found here, and by which rule"),
        ("survivectl catalog hf-hub", "all about one of them: kind, lock, links, how it is cleaned"),
        ("survivectl catalog --all --json", "for scripts, with what is not there"),
    ),
    "hogs": (
        ("survivectl hogs", "everything big that is watched"),
        ("survivectl hogs ~/projects", "only below one directory"),
    ),
    "list": (("survivectl list", "what lives on a data disk"),),
    "relocate": (
        ("survivectl relocate pip", "a cache by its id"),
        ("survivectl relocate ~/datasets --to /data2/alice", "any directory, to a disk of your choice"),
    ),
    "restore": (
        ("survivectl restore pip", "one of them"),
        ("survivectl restore --all", "everything that is relocated"),
    ),
    "purge": (
        ("survivectl purge pip --dry-run", "what pip would be asked to remove, and how much is there"),
        ("survivectl purge pip", "empty pip's cache by its own command"),
    ),
    "rehome": (("survivectl rehome pip --to /data2/alice", "from one data disk to another"),),
    "redirect": (
        ("survivectl redirect plan pip conda tmpdir", "what would be written, as a diff"),
        ("survivectl redirect apply pip --move", "have pip use the data disk, and take along what lies at home"),
        ("survivectl redirect undo pip", "both back, byte for byte"),
    ),
    "orphans": (
        ("survivectl orphans", "trees that no link leads to"),
        ("survivectl orphans link ~/.cache/yarn", "put the link back"),
    ),
    "standin": (
        ("survivectl standin uv-cache", "go on working until the data disk is back"),
        ("survivectl standin --all", "for every link that waits for its disk"),
    ),
    "verify": (
        ("survivectl verify", "everything that is relocated, quickly"),
        ("survivectl verify pip --content", "every byte of one"),
    ),
    "recover": (
        ("survivectl recover", "finish or undo what a crash left"),
        ("survivectl recover --rebuild", "when state.db is lost"),
    ),
    "pause": (
        ("survivectl pause 2h", "while an experiment runs"),
        ("survivectl pause", "until survivectl resume"),
    ),
    "resume": (("survivectl resume", "move again"),),
    "reload": (("survivectl reload", "after you have edited the configuration"),),
    "history": (
        ("survivectl history", "the last seven days"),
        ("survivectl history --since 1d /", "one day of one filesystem"),
        ("survivectl history --since 90d --html usage.html", "a page to look at in a browser or to send"),
    ),
    "metrics": (("survivectl metrics show", "what is written for node_exporter"),),
    "top": (
        ("survivectl top", "walk through what is big, mark, move, restore"),
        ("survivectl top --read-only /home", "only look"),
    ),
    "mirrors": (
        ("survivectl mirrors probe pip", "which of them is fast, fresh and true"),
        ("survivectl mirrors use pip --fastest", "fetch from there"),
        ("survivectl mirrors undo pip", "fetch from where it was before"),
    ),
    "docker": (
        ("survivectl docker plan", "the steps, and what there is to move"),
        ("sudo survivectl docker apply --to /data1/docker", "do them"),
    ),
    "offline": (
        ("survivectl offline pack requirements.txt -o torch.tar.zst", "where there is network"),
        ("survivectl offline install torch.tar.zst", "on the server, in the active environment"),
    ),
    "check": (("survivectl check", "configuration, data disks, links, notices, daemon"),),
    "doctor": (
        ("survivectl doctor", "what will fill the disk again, and the command that mends it"),
        ("survivectl doctor --all", "with what is as it should be"),
        ("survivectl doctor --json | jq '.findings[].command'", "the commands alone"),
    ),
    "notify": (("survivectl notify test", "send a test notice to every destination"),),
    "install": (
        ("survivectl install", "asks which data disk"),
        ("survivectl install --yes --disk /data1/alice", "asks nothing"),
        ("survivectl install --login-line", "a line at login when something is wrong"),
    ),
    "uninstall": (
        ("survivectl uninstall --dry-run", "what would be taken back"),
        ("survivectl restore --all && survivectl uninstall", "with everything brought home first"),
    ),
    "demo": (("survivectl demo", "in a sandbox: nothing of yours is touched"),),
    "completion": (
        ('eval "$(survivectl completion bash)"', "in ~/.bashrc"),
        ('eval "$(survivectl completion zsh)"', "in ~/.zshrc, after compinit"),
        ("survivectl completion fish > ~/.config/fish/completions/survivectl.fish", "once"),
    ),
    "man": (
        ("survivectl man | man -l -", "read it"),
        ("survivectl man ~/.local/share/man", "put it where man finds it"),
    ),
}


def epilog(verb: str) -> str | None:
    """Return the examples of a verb as its help has them, or None if it has none."""
    found = EXAMPLES.get(verb)
    if not found:
        return None
    lines = [f"  {command}\n      {what}" for command, what in found]
    return "\n".join(["examples:", *lines])
