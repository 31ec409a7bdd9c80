"""Mirrors: which one is taken and when one is left, what is asked of servers that misbehave, and the settings that lead a tool."""

from __future__ import annotations

import gzip
import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import survived
from survived.errors import UsageError
from survived.mirrors import choice, known, probing, recipes, wheels
from survived.mirrors.choice import Watched
from survived.mirrors.facts import Finding, site
from survived.mirrors.fetch import Client, Unusable
from survived.mirrors.known import Mirror
from survived.mirrorwatch import finding_of
from tests.rig.mirror import Site, mirror, wheel_pages

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20


def finding(name: str, **more: Any) -> Finding:
    """Return a good finding of a mirror of that name."""
    upstream = more.pop("upstream", "")
    values = {"latency_seconds": 0.1, "bytes_per_second": 10.0 * MIB, "fresh_key": (1.0, 40.0), "proven": True} | more
    return Finding(Mirror(name, "pip", f"https://{name}.test/simple", upstream=upstream), **values)


# ---- choosing -----------------------------------------------------------------------------------------------------


def test_the_fastest_fit_one_is_taken() -> None:
    """Ranked is by what a typical download takes; who is behind, unproven, broken or sends others' data is not in it."""
    findings = [
        finding("slow", bytes_per_second=1.0 * MIB),
        finding("fast", bytes_per_second=50.0 * MIB, latency_seconds=0.4),
        finding("near", bytes_per_second=9.0 * MIB, latency_seconds=0.01),
        finding("stale", bytes_per_second=90.0 * MIB, fresh_key=(1.0, 39.9)),
        finding("unproven", bytes_per_second=90.0 * MIB, proven=False),
        finding("elsewhere", bytes_per_second=90.0 * MIB, data_host="cas.elsewhere.test"),
        finding("broken", why="it is broken (500)"),
        finding("silent", fresh_key=(), bytes_per_second=5.0 * MIB),
    ]
    assert [item.mirror.id for item in choice.rank(findings)] == ["fast", "near", "silent", "slow"]


def test_a_date_is_behind_after_a_day() -> None:
    """Archives are dated: an hour behind is as good as new, two days are not; a broken one that is newer judges nobody."""
    newest = finding("new", fresh_key=(1_000_000.0,))
    hour, days = finding("hour", fresh_key=(996_400.0,)), finding("days", fresh_key=(820_000.0,))
    broken = finding("broken", fresh_key=(9e9,), why="x")
    found = [newest, hour, days, broken]
    assert [choice.is_stale(item, found) for item in found[:3]] == [False, False, True]


@given(st.permutations(range(6)))
def test_the_order_of_asking_plays_no_part(order: list[int]) -> None:
    """However the answers come, the ranking is one."""
    findings = [finding(f"m{number}", bytes_per_second=float(MIB * (1 + number % 3))) for number in range(6)]
    assert choice.rank([findings[number] for number in order]) == choice.rank(findings)


def test_a_fallback_pulls_from_elsewhere() -> None:
    """A mirror that pulls from the broken one stalls with it, so an independent one is taken, though it is slower."""
    tuna = finding("tuna", why="it is broken (502)")
    bfsu = finding("bfsu", upstream="tuna", bytes_per_second=90.0 * MIB)
    tencent = finding("tencent", bytes_per_second=2.0 * MIB)
    found = choice.fallback(tuna.mirror, [tuna, bfsu, tencent])
    assert found is not None
    assert found.mirror.id == "tencent"
    only = choice.fallback(tuna.mirror, [tuna, bfsu])
    assert only is not None
    assert only.mirror.id == "bfsu"
    assert choice.fallback(tuna.mirror, [tuna]) is None


def _look(watched: Watched, *findings: Finding, times: int = 1, may_switch: bool = True) -> tuple[Watched, list[tuple[str, str]]]:
    said = []
    for _ in range(times):
        verdict = choice.step(watched, findings, may_switch=may_switch)
        watched = verdict.watched
        if verdict.tell or verdict.to:
            said.append((verdict.tell, verdict.to.id if verdict.to else ""))
    return watched, said


def test_leaving_is_slow_and_coming_back_slower() -> None:
    """One bad look changes nothing, two are told once, three lead elsewhere; six good ones lead back; then it begins anew."""
    good, bad, other = finding("a"), finding("a", why="the connection is refused"), finding("b")
    watched = Watched(good.mirror, good.mirror)
    assert _look(watched, bad, other)[1] == []
    watched, said = _look(watched, bad, other, times=2)
    assert said == [("the connection is refused", "")]
    watched, said = _look(watched, bad, other, times=5)
    assert said == [("the connection is refused", "b")]
    watched, said = _look(watched, good, other, times=5)
    assert said == []
    watched, said = _look(watched, bad, other)
    watched, said = _look(watched, good, other, times=6)
    assert said == [("it does well again", "a")]
    assert watched.used == watched.chosen == good.mirror
    _, said = _look(watched, bad, other, times=9, may_switch=False)
    assert said == [("the connection is refused", "")]


def test_nothing_is_done_where_no_other_does() -> None:
    """A gateway that is down takes all mirrors with it: told once, led nowhere."""
    bad, other = finding("a", why="its name is not known here"), finding("b", why="its name is not known here")
    _, said = _look(Watched(bad.mirror, bad.mirror), bad, other, times=50)
    assert said == [("its name is not known here", "")]


# ---- what is known ------------------------------------------------------------------------------------------------


def test_the_data_is_sound() -> None:
    """Every mirror has a title, a region and https (or a distribution's http); upstreams exist; each tool has an official one."""
    text = (Path(survived.__file__).parent / "settings/mirrors.toml").read_text()
    sites = tomllib.loads(text)["mirror"]
    names = [item["id"] for item in sites]
    assert len(names) == len(set(names))
    for item in sites:
        assert item["title"]
        assert item["region"] in ("cn", "world")
        assert item.get("upstream", names[0]) in names
        for value in item.values():
            assert not str(value).startswith("http") or (not str(value).endswith("/") and "//" in str(value))
    for tool in known.TOOLS:
        assert known.mirrors(tool)[0].is_official
        assert known.sample(tool)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: known.check_tool("pipp"), "Did you mean 'pip'?"),
        (lambda: known.check_tool("huggingface"), "Did you mean 'hub'?"),
        (lambda: known.check_tool("zzz"), "Tools with mirrors: pip, uv"),
        (lambda: known.find("pip", "tunaa"), "Did you mean 'tuna'?"),
        (lambda: known.find("pip", "ftp://x/"), None),
        (lambda: known.find("pip", "https://"), None),
        (lambda: known.find("pip", "https://x y"), None),
    ],
)
def test_an_unknown_word_names_the_nearest(call: Callable[[], object], said: str | None) -> None:
    """A misspelt tool or mirror, and what is no URL, are one sentence."""
    with pytest.raises(UsageError, match="Nothing was changed") as caught:
        call()
    assert said is None or said in (caught.value.hint or "")


def test_a_password_is_never_shown() -> None:
    """An intranet's URL may have one."""
    found = known.named("pip", "https://me:geheim@nexus.intra/simple/")
    assert (found.shown, found.url) == ("https://me:***@nexus.intra/simple", "https://me:geheim@nexus.intra/simple")


@pytest.mark.parametrize(
    ("host", "owner"),
    [
        ("files.pythonhosted.org", "pythonhosted.org"),
        ("a.b.tsinghua.edu.cn", "tsinghua.edu.cn"),
        ("10.1.2.3", "10.1.2.3"),
        ("x", "x"),
    ],
)
def test_a_site_is_what_one_owner_has(host: str, owner: str) -> None:
    """Data from another machine of the same owner is its own."""
    assert site(host) == owner


# ---- asking -------------------------------------------------------------------------------------------------------


def _probe(url: str, limit: float = 6.0) -> Finding:
    return probing.probe(known.named("pip", url), {}, time.monotonic() + limit)


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"status": 503}, "it is broken (503"),
        ({"status": 403}, "it refuses to serve"),
        ({"status": 404}, "it does not have the project six"),
        ({"html": 1}, "it answers with a web page, not with an index"),
        ({"loop": 1}, "it redirects without end"),
        ({"hang": 3.0}, "it does not answer in time"),
    ],
)
def test_a_server_that_misbehaves(faults: dict[str, Any], said: str) -> None:
    """Each is one clause, and soon."""
    with mirror(Site(wheel_pages(b"x"), **faults)) as server:
        found = _probe(f"{server.url}/simple", 2.0)
    assert not found.ok
    assert said in found.why


def test_a_server_that_is_not_there() -> None:
    """No name, nobody listening, no trust."""
    assert _probe("http://127.0.0.1:9/simple").why == "the connection is refused"
    assert _probe("https://no.such.host.invalid/simple").why == "its name is not known here"
    with mirror(Site(wheel_pages(b"x"))) as server:
        assert "certificate" in _probe(server.url.replace("http:", "https:") + "/simple").why


def test_a_wrong_hash_is_never_taken() -> None:
    """An altered file from a mirror makes it unusable, whatever hash its index gives."""
    with mirror(Site(wheel_pages(b"something else"))) as server:
        assert _probe(f"{server.url}/simple").why == "six-1.17.0-py2.py3-none-any.whl from it has another hash than it must have"


def test_all_are_asked_at_once_and_nobody_is_waited_for() -> None:
    """One that sends a header every now and then, for ever, costs the limit and not a second more; the others have answered."""
    with mirror(Site({}, trickle=1)) as slow, mirror(Site({}, status=500)) as broken:
        mirrors = [known.named("pip", f"{server.url}/{number}") for number in range(3) for server in (slow, broken)]
        began = time.monotonic()
        found = probing.probe_all(mirrors, {}, limit_seconds=1.5)
        assert time.monotonic() - began < 6
    assert [item.mirror for item in found] == mirrors
    assert {item.why for item in found[::2]} <= {"it does not answer within 2 s", "it does not answer in time"}
    assert all(item.why.startswith("it is broken (500") for item in found[1::2])


def test_nothing_secret_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ~/.netrc nor a token of the environment reaches a mirror."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password geheim\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_geheim")
    with mirror(Site(wheel_pages(b"x"))) as server:
        _probe(f"{server.url}/simple")
        assert server.seen
        for _, headers in server.seen:
            assert "Authorization" not in headers
            assert "geheim" not in json.dumps(headers)


def test_an_index_in_json_is_read_too() -> None:
    """PEP 691, and a page with single quotes and entities."""
    page = {"meta": {"api-version": "1.1"}, "name": "six", "files": [{"url": "/f/six-1.17.0-py2.py3-none-any.whl"}]}

    class Json:
        url, is_whole, headers, is_page = (
            "https://a.test/simple/six/",
            True,
            {"content-type": "application/vnd.pypi.simple.v1+json"},
            False,
        )
        body = json.dumps(page).encode()

    assert wheels._files(Json(), "six") == ["https://a.test/f/six-1.17.0-py2.py3-none-any.whl"]  # type: ignore[arg-type]
    Json.body = b"{"
    with pytest.raises(Unusable, match="no valid JSON"):
        wheels._files(Json(), "six")  # type: ignore[arg-type]
    Json.headers, Json.body = {"content-type": "text/html"}, b"<a data-x='1' href='../../f/six-1.0.zip?a=1&amp;b=2#sha256=0'>"
    assert wheels._files(Json(), "six") == ["https://a.test/f/six-1.0.zip?a=1&b=2"]  # type: ignore[arg-type]


def test_an_answer_without_end_has_a_limit() -> None:
    """A body is read up to the limit that the caller gives."""
    with mirror(Site({"/big/": gzip.compress(b"x") + bytes(4 * MIB)})) as server:
        client = Client({}, time.monotonic() + 5)
        answer = client.get(f"{server.url}/big/", limit=MIB)
        client.close()
    assert (len(answer.body), answer.is_whole) == (MIB, False)


def test_a_finding_survives_json() -> None:
    """What a probe prints comes back as it was; the order of its fields plays no part."""
    from survived.ctl.mirrors import _finding

    found = finding("a", fresh="boto3 1.40", upstream="b", pinned=True)
    assert finding_of(json.loads(json.dumps(_finding(found, [found])))) == replace(found)


# ---- leading ------------------------------------------------------------------------------------------------------

DEB822 = """\
# deb.debian.org is what we had: http://deb.debian.org/debian
Types: deb
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://deb.debian.org/debian-security/
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/k.gpg] https://deb.debian.org/debian bookworm main # https://deb.debian.org/debian
deb http://security.debian.org/debian-security bookworm-security main
# deb http://deb.debian.org/debian sid main
deb https://deb.nodesource.com/node_20.x nodistro main
"""


def test_sources_of_apt_in_both_forms() -> None:
    """Servers of the distribution are replaced, its security updates too if the mirror has them; all else stays."""
    tuna = known.find("apt", "tuna")
    led = recipes.led_to(DEB822, tuna, "debian")
    assert led == DEB822.replace("URIs: http://deb.debian.org/debian\n", f"URIs: {tuna.url}\n").replace(
        "URIs: http://deb.debian.org/debian-security/", "URIs: https://mirrors.tuna.tsinghua.edu.cn/debian-security/"
    )
    assert recipes.led_to(led, tuna, "debian") == led
    assert recipes.led_to(led, known.find("apt", "official"), "debian").count("https://deb.debian.org/debian") == 2
    one = recipes.led_to(ONE_LINE, tuna, "debian").splitlines()
    assert one[0].startswith(f"deb [arch=amd64 signed-by=/k.gpg] {tuna.url} bookworm main")
    assert one[1] == "deb https://mirrors.tuna.tsinghua.edu.cn/debian-security bookworm-security main"
    assert one[2:] == ONE_LINE.splitlines()[2:]


def test_without_security_updates_those_stay_where_they_were() -> None:
    """A mirror by URL has only the main archive."""
    intra = known.at("apt", "http://apt.intra/debian")
    led = recipes.led_to(DEB822, intra, "debian")
    assert "URIs: http://apt.intra/debian\n" in led
    assert "URIs: http://deb.debian.org/debian-security/\n" in led


def test_a_hub_that_is_not_the_hubs_own_gets_no_token() -> None:
    """With HF_ENDPOINT goes the word that keeps huggingface_hub from sending the user's token along."""
    edits = recipes.edits_for(known.find("hub", "hf-mirror"), {}, "/home/a")
    assert all("HF_HUB_DISABLE_IMPLICIT_TOKEN" in str(edit.value) for edit in edits if edit.format in ("block", "file"))
    assert {edit.key for edit in edits if edit.format == "environment"} == {("HF_ENDPOINT",), ("HF_HUB_DISABLE_IMPLICIT_TOKEN",)}


def test_settings_are_where_the_tool_looks() -> None:
    """The tools' own variables for their files count; a relative XDG_CONFIG_HOME does not."""
    env = {"PIP_CONFIG_FILE": "/p.conf", "NPM_CONFIG_USERCONFIG": "/n", "CONDARC": "/c", "XDG_CONFIG_HOME": "relative"}
    files = {tool: recipes.edits_for(known.mirrors(tool)[0], env, "/home/a")[0].file for tool in ("pip", "uv", "npm", "conda")}
    assert files == {"pip": "/p.conf", "uv": "/home/a/.config/uv/uv.toml", "npm": "/n", "conda": "/c"}
    assert recipes.relevant({"PIP_CONFIG_FILE": "/p", "HF_TOKEN": "x", "CONDARC": ""}) == {"PIP_CONFIG_FILE": "/p"}


def test_pip_is_told_to_trust_plain_http() -> None:
    """Else it refuses an intranet's server without a certificate."""
    edits = recipes.edits_for(known.named("pip", "http://me:x@nexus.intra:8081/simple"), {}, "/h")
    assert [(edit.key[1], edit.value) for edit in edits] == [
        ("index-url", "http://me:x@nexus.intra:8081/simple"), ("trusted-host", "nexus.intra:8081"),
    ]  # fmt: skip
