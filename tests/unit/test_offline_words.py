"""survivectl offline without a tool, a disk or network: what a wrong word is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from survived.ctl.main import main


@pytest.mark.parametrize(
    ("words", "rc", "why"),
    [
        (["pack"], 2, "Cannot pack nothing"),
        (["pack", "--apk", "jq"], 2, "'--apk' is not known"),
        (["pack", "no-such-thing"], 2, "Cannot tell what 'no-such-thing' is"),
        (["pack", "environment.yml"], 2, "Cannot tell what"),
        (["pack", "requirements.txt", "--platform", "windows"], 2, "a platform looks like"),
        (["pack", "requirements.txt", "--python", "three"], 2, "a version looks like 3.11"),
        (["pack", "requirements.txt", "--split", "10"], 2, "less than 1 MiB"),
        (["pack", "requirements.txt", "--split", "much"], 2, "'much' is not a size"),
        (["pack", "--wheels", "missing.txt"], 1, "there is no such file"),
        (["pack", "--hub", "../etc"], 2, "a snapshot looks like"),
        (["pack", "--deb", "-o=x"], 2, "."),
        (["pack", "--deb", "a;b"], 2, "a package looks like"),
        (["pack", "--vscode-server", "abc"], 2, "it has 40 hex digits"),
        (["pack", "--vsix", "nodots"], 2, "an extension looks like"),
        (["pack", "--npm", "."], 1, "package.json"),
        (["pack", "--file", "/nowhere"], 1, "no such file"),
        (["pack", "requirements.txt", "--inventory", "requirements.txt"], 1, "no inventory of ours"),
        (["verify"], 2, "required: BUNDLE"),
        (["verify", "/nowhere"], 1, "it is not there"),
        (["install", "/nowhere"], 1, "it is not there"),
        (["install", "x", "--with", "poetry"], 2, "invalid choice: 'poetry'"),
        (["install", "x", "--only", "rpm"], 2, "invalid choice: 'rpm'"),
        (["unpack"], 2, "invalid choice: 'unpack'"),
        ([], 2, "required: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(
    words: list[str],
    rc: int,
    why: str,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The right exit code, one sentence, at most one hint, and no bundle is left behind."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = Path(environment["HOME"])
    monkeypatch.chdir(home)
    (home / "requirements.txt").write_text("six\n")
    assert main(["offline", *words]) == rc
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert said.out == ""
    assert lines[0].startswith("survivectl: Cannot ")
    assert why in lines[0]
    assert len(lines) <= 2
    assert list(home.glob("*.zst")) == []
