"""A user's own texts are used, a broken one falls back and is told once; and the page of a mail escapes what names hold."""

from __future__ import annotations

from html.parser import HTMLParser
from io import BytesIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from survived.decide.sentences import HAPPENED, LEFT, UNDO, Voice, notice
from survived.model import Level, Notice, Topic
from survived.tell import mail
from survived.tell.picture import HEIGHT, WIDTH, Curve, draw
from survived.tell.templates import Templates

if TYPE_CHECKING:
    from pathlib import Path

VOICE = Voice("alpha")
NOW = 1_800_000_000.0


def made(headline: str = "/ is at 93 %") -> Notice:
    """Return a notice with commands in it."""
    left = VOICE.say("To see why: {command}", command="survivectl plan")
    parts = {HAPPENED: [VOICE.say("{what}.", what=headline)], LEFT: ["What helps:", f"- {left}"], UNDO: ["Undo."]}
    return notice(VOICE, Topic.PRESSURE, Level.WARNING, headline, parts, NOW)


def test_without_a_directory_nothing_changes() -> None:
    """No templates, no trouble."""
    templates = Templates(None)
    assert (templates.apply(made(), "alpha"), templates.page(), templates.troubles) == (made(), None, {})


def test_a_topic_has_its_own_text_and_all_the_rest(tmp_path: Path) -> None:
    """`pressure.txt` goes before `all.txt`; the first line is the title; commands are plain; a plain dollar is written twice."""
    (tmp_path / "pressure.txt").write_text("[$host] $title\n$happened\n>> $left\n$$5 $grew$undo\n", encoding="utf-8")
    (tmp_path / "all.txt").write_text("$level/$topic\n$body", encoding="utf-8")
    templates = Templates(str(tmp_path))
    told = templates.apply(made(), "alpha")
    assert told.title == "[alpha] alpha: / is at 93 %"
    assert told.body.splitlines() == ["/ is at 93 %.", ">> What helps:", "- To see why: survivectl plan", "$5 Undo."]
    assert told.parts == ()
    other = Notice("failed", Level.FAILURE, "t", "b", NOW)
    assert (templates.apply(other, "alpha").title, templates.apply(other, "alpha").body) == ("failure/failed", "b")
    assert templates.troubles == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"$titel\n$body", "there is no $titel"),
        (b"costs 5$\n", "invalid placeholder"),
        (b"\xff\xfe", "it is not UTF-8"),
        (None, "is a directory"),
    ],
)
def test_a_broken_template_is_told_and_ours_is_used(tmp_path: Path, content: bytes | None, why: str) -> None:
    """Whatever is wrong with it, the notice goes out as it is, and the trouble names file and reason; mended, it is over."""
    place = tmp_path / "pressure.txt"
    if content is None:
        place.mkdir()
    else:
        place.write_bytes(content)
    templates = Templates(str(tmp_path))
    assert templates.apply(made(), "alpha") == made()
    assert why in templates.troubles["pressure.txt"]
    assert f"'{place}'" in templates.troubles["pressure.txt"]
    if content is not None:
        place.write_text("$title\n$body", encoding="utf-8")
        assert templates.apply(made(), "alpha").body == made().body
        assert templates.troubles == {}


def test_the_page_of_a_mail_can_be_ones_own(tmp_path: Path) -> None:
    """mail.html is checked before it is used; a broken one is ours again."""
    (tmp_path / "mail.html").write_text("<b>$title</b>$notices", encoding="utf-8")
    templates = Templates(str(tmp_path))
    assert templates.page() == "<b>$title</b>$notices"
    (tmp_path / "mail.html").write_text("$nothing", encoding="utf-8")
    assert templates.page() is None
    assert "there is no $nothing" in templates.troubles["mail.html"]


class Reader(HTMLParser):
    """Collects the text and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.open, self.codes = "", [], 0  # type: ignore[var-annotated]

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a tag."""
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.codes += tag == "code"

    def handle_endtag(self, tag: str) -> None:
        """Close it."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect text."""
        self.text += data


def page(item: Notice, *, has_picture: bool = False) -> str:
    """Return the page of a notice."""
    letter = {"title": item.title, "body": item.body, "level": item.level.value, "parts": item.parts, "host": "alpha"}
    return mail.page(letter, {"happened": "What happened"}, "the end", has_picture=has_picture)


@given(st.text(min_size=1, max_size=60) | st.sampled_from(["<script>alert(1)</script>", "a & b", "\ue000x", "$title", "'\""]))
def test_a_page_shows_what_there_is_and_nothing_acts(name: str) -> None:
    """Names are text, whatever they hold; tags are closed, and commands are set apart."""
    reader = Reader()
    text = page(made(f"x{name}x"))
    reader.feed(text)
    assert reader.open == []
    assert "<script" not in text
    assert reader.codes == 1
    assert "survivectl plan" in reader.text
    assert made(f"x{name}x").title in reader.text
    assert "What happened" in reader.text


def test_a_page_of_a_template_has_its_body() -> None:
    """A notice that a user's own text made has no parts, and is shown all the same."""
    reader = Reader()
    reader.feed(page(Notice("failed", Level.FAILURE, "title", "one <two>\n- three", NOW)))
    assert "title" in reader.text
    assert "one <two>" in reader.text
    assert "three" in reader.text


def test_a_page_has_its_picture_only_where_there_is_one() -> None:
    """The page refers to the attached picture by its name, and to nothing on the net."""
    assert f"cid:{mail.PICTURE}" in page(made(), has_picture=True)
    assert "cid:" not in page(made())
    assert "http" not in page(made(), has_picture=True).replace("http-equiv", "")


# ---- the picture --------------------------------------------------------------------------------------------------------


def curve(shares: list[float], step: float = 1800.0, mount: str = "/") -> Curve:
    """Return a curve with one sample each `step` seconds."""
    return Curve(mount, [(NOW + at * step, share) for at, share in enumerate(shares)], 0.8, 0.9, 0.97)


@pytest.mark.parametrize(
    "shares", [[0.9, 0.9], [0.0, 1.0] * 200, [1.0] * 3, [0.999] * 500, [0.5 + at / 1000 for at in range(400)]]
)  # fmt: skip
def test_a_curve_is_drawn(shares: list[float]) -> None:
    """Whatever the usage was, the picture has its size, and its line is there."""
    data = draw([curve(shares), curve([0.1, 0.2], 60.0, "/home")])
    assert data is not None
    image = Image.open(BytesIO(data)).convert("RGB")
    assert image.size == (2 * WIDTH, 4 * HEIGHT)
    colours = {colour for _, colour in image.getcolors(1 << 20) or []}
    assert any(blue > 200 and red < 90 for red, _, blue in colours), "no line"
    assert len(data) < 100_000


def test_a_curve_goes_up_as_usage_does() -> None:
    """At the left of a rising curve the line is lower than at the right; nothing is drawn of less than two samples."""
    data = draw([curve([0.6 + 0.35 * at / 99 for at in range(100)])])
    assert data is not None
    image = Image.open(BytesIO(data)).convert("RGB")

    def height(x: int) -> int:
        blue = [y for y in range(image.height) if image.getpixel((x, y))[2] > 200 and image.getpixel((x, y))[0] < 90]  # type: ignore[index]
        return min(blue)

    assert height(150) > height(600) > height(1000)
    assert draw([curve([0.5]), curve([])]) is None
