"""Every sentence that a notice can hold has a Chinese one with the same places in it, and both are read as gettext reads them."""

from __future__ import annotations

import ast
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest

import survived
from survived.decide import retelling
from survived.decide.sentences import UNITS, Voice
from survived.postman import LABELS
from survived.tell.catalogue import is_chinese, parse, read_catalogue, translation

HOUSE = Path(survived.__file__).parent
CATALOGUE = HOUSE / "tell/locale/zh_CN.po"
SPEAKERS = [*sorted((HOUSE / "decide").glob("*.py")), HOUSE / "postman.py", HOUSE / "post.py", HOUSE / "ctl/notify.py"]


def constants(node: ast.expr) -> list[str]:
    """Return the texts that an expression can be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return constants(node.body) + constants(node.orelse)
    return []


def said(source: str) -> set[str]:
    """Return what a file says: what is passed to `say` and `translate`, and what `text` is set to for them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            if node.func.attr in ("say", "translate"):
                found |= set(constants(node.args[0]))
        elif isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["text"]:
            found |= set(constants(node.value))
    return found


def messages() -> set[str]:
    """Return every sentence that there is in the code."""
    found = {*retelling.SHAPES, *LABELS.values(), *UNITS}
    for path in SPEAKERS:
        source = path.read_text(encoding="utf-8")
        found |= said(source) if "Voice" in source else set()
    for path in HOUSE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            told_by = ("post.trouble", "self.trouble") if path.name == "post.py" else ("post.trouble",)
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(told_by) and node.args:
                found |= set(constants(node.args[0]))
    return found


def places(text: str) -> list[str]:
    """Return the names of the places in a sentence, in order of name."""
    return sorted({name for _, name, _, _ in string.Formatter().parse(text) if name is not None})


def test_every_sentence_is_translated() -> None:
    """None is missing, and none in the catalogue is of a sentence that nobody says any more."""
    catalogue = set(read_catalogue("zh_CN")) - {""}
    assert sorted(messages() - catalogue) == []
    assert sorted(catalogue - messages()) == []


def test_places_are_the_same() -> None:
    """A translation has exactly the places of its original, so that `format` never fails and nothing is left out."""
    differing = [text for text, other in read_catalogue("zh_CN").items() if text and places(text) != places(other)]
    assert differing == []


def test_commands_and_keys_stay() -> None:
    """What must be typed is not translated: commands, keys of the configuration, endings of files."""
    for text, other in read_catalogue("zh_CN").items():
        if text:
            for word in re.findall(r"survivectl [a-z]+|\[\w+\]|keep_free|min_size|config\.toml|\.survived-earlier", text):
                assert word in other, (text, word)


def test_the_translation_is_chinese() -> None:
    """Each sentence with words in it has Chinese characters, and ends as Chinese sentences end."""
    for text, other in read_catalogue("zh_CN").items():
        if text and re.search(r"[a-z]{3}", re.sub(r"{\w+}", "", text)):
            assert re.search(r"[\u4e00-\u9fff]", other), text
        if text.endswith(".") and text:
            assert other.endswith("。"), text


def test_msgfmt_takes_the_catalogue(tmp_path: Path) -> None:
    """GNU gettext itself finds nothing wrong, and its reading is ours."""
    import gettext

    if shutil.which("msgfmt") is None:
        pytest.skip("msgfmt (Debian package gettext) is not installed")
    compiled = tmp_path / "zh_CN.mo"
    done = subprocess.run(
        ["msgfmt", "--check", "-o", str(compiled), str(CATALOGUE)], capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    with compiled.open("rb") as file:
        theirs = gettext.GNUTranslations(file)
    ours = read_catalogue("zh_CN")
    assert {text: theirs.gettext(text) for text in ours if text} == {text: other for text, other in ours.items() if text}


@pytest.mark.parametrize(
    ("env", "chinese"),
    [
        ({}, False),
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "de_DE.UTF-8"}, False),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, True),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, False),
        ({"LANG": "C", "LANGUAGE": "zh"}, False),
    ],
)
def test_the_language_is_that_of_the_environment(env: dict[str, str], chinese: bool) -> None:
    """`auto` looks where gettext looks; a word of the configuration wins."""
    assert is_chinese(env) is chinese
    assert (translation("auto", env)("Nothing is left to do.") != "Nothing is left to do.") is chinese
    assert translation("zh", {"LANG": "en_US.UTF-8"})("Nothing is left to do.") != "Nothing is left to do."
    assert translation("en", {"LANG": "zh_CN.UTF-8"})("Nothing is left to do.") == "Nothing is left to do."


def test_a_catalogue_is_read_with_its_odd_parts() -> None:
    """Texts over several lines, escapes, comments, fuzzy and missing ones."""
    text = (
        'msgid ""\nmsgstr "Language: zh\\n"\n\n# note\nmsgid "a "\n"\\"b\\"\\n"\nmsgstr ""\n"甲"\n"乙"\n\n'
        '#, fuzzy\nmsgid "c"\nmsgstr "丙"\n\nmsgid "d"\nmsgstr ""\n'
    )
    assert parse(text) == {"": "Language: zh\n", 'a "b"\n': "甲乙"}


def test_what_was_said_elsewhere_is_told_again() -> None:
    """Reasons of the plan, also one in another and several in a row, become Chinese; what nobody knows stays as it is."""
    chinese = Voice("alpha", translation("zh", {}))
    assert retelling.retell(chinese, "python (pid 4711) has files open") == "python (pid 4711) 正打开着其中的文件"
    inner = retelling.retell(chinese, "the last attempt failed: Cannot move '/a': it cannot be read. Nothing was changed.")
    assert inner == "上次尝试失败：无法移动 '/a'：无法读取。未做任何更改。"
    assert retelling.retell(chinese, "No space left on device") == "No space left on device"
    assert retelling.retell(Voice("alpha"), "is a link already") == "is a link already"
    assert retelling.retell(chinese, "bad\n\udcff") == "bad�\ufffd"
