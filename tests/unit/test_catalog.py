"""Every cache is found where its tool looks for it, by the tool's own rules, and no two movable ones overlap."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.errors import ConfigError
from survived.model import Cache, Kind
from survived.settings.catalog import CacheOverride, resolve_caches
from survived.settings.rules import find_rule, load_rules, parse_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FACTS = Path(__file__).parents[3] / "shared/facts/catalog.toml"
PROVEN = {
    "pip", "uv-cache", "uv-tools", "poetry", "pipx", "pre-commit", "conda-pkgs", "conda-envs", "hf-hub", "hf-datasets",
    "torch-hub", "npm", "pnpm-store", "yarn-berry", "bun", "cargo", "go-build", "ccache", "uv-python", "nltk", "wandb-cache",
    "wandb-staging", "wandb-runs", "playwright", "rustup", "sccache", "maven", "jupyter", "modelscope", "tfds",
}  # fmt: skip
EATS_LINKS = {"yarn1", "cargo-target", "go-mod"}


class Home:
    """A home directory and a system root to lay files into, and what resolving finds there."""

    def __init__(self, path: Path) -> None:
        self.path, self.root = path / "home/alice", path / "system"
        self.path.mkdir(parents=True)

    def write(self, name: str, text: str) -> None:
        """Write a file below the home, or below the system root for a name that begins with a slash."""
        file = self.root / name[1:] if name.startswith("/") else self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def resolve(self, env: Mapping[str, str] | None = None, **overrides: CacheOverride) -> dict[str, Cache]:
        """Return the caches by id; `_` in the name of an override stands for `-`."""
        named = {name.replace("_", "-"): override for name, override in overrides.items()}
        caches = resolve_caches(env or {}, str(self.path), named, root=str(self.root))
        assert len({cache.id for cache in caches}) == len(caches)
        return {cache.id: cache for cache in caches}

    def place(self, name: str, env: Mapping[str, str] | None = None) -> tuple[str, str]:
        """Return the path of one cache, `~` for the home, and the rule that gave it."""
        cache = self.resolve(env)[name]
        return cache.path.replace(str(self.path), "~"), cache.rule


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Return an empty home and an empty system."""
    return Home(tmp_path)


# ---- the data ------------------------------------------------------------


def test_only_what_was_run_behind_a_link_is_moved_by_itself(home: Home) -> None:
    """Remembered entries and those whose tool eats the link are reported only, with a reason; nothing else is."""
    caches = home.resolve({"CARGO_TARGET_DIR": "/t", "WANDB_DIR": "/w"})
    assert {cache.id for cache in caches.values() if cache.report_only is None} == PROVEN
    assert {rule.id for rule in load_rules() if rule.proven} == PROVEN
    for name in EATS_LINKS:
        assert "removes the link" in str(caches[name].report_only)
        assert "redirect it" in str(caches[name].report_only)
    assert caches["keras"].report_only == "its behaviour behind a link is not proven yet"


def test_no_command_that_deletes_for_good_is_suggested(home: Home) -> None:
    """A tool's clean command is shown only where all that it deletes can be made again."""
    caches = home.resolve()
    assert caches["pip"].clean_command == "pip cache purge"
    for rule in load_rules():
        if not rule.purge_ok and rule.id in caches:
            assert caches[rule.id].clean_command is None
    assert caches["poetry"].clean_command is None


def test_what_the_daemon_needs_of_a_tool(home: Home) -> None:
    """Locks, processes and shared links come with the entry."""
    caches = home.resolve()
    assert {name: caches[name].lock for name in ("uv-cache", "pre-commit", "pip", "cargo")} == {
        "uv-cache": (".lock",), "pre-commit": (".lock",), "pip": (), "cargo": (".package-cache", ".package-cache-mutate"),
    }  # fmt: skip
    assert "uv" in caches["uv-cache"].processes
    assert caches["conda-pkgs"].shares_links_with == ("conda-envs",)


RIGHT: dict[str, Any] = {"id": "a", "title": "A", "kind": "cache", "locations": [{"path": "~/a"}], "evidence": "memory"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"lokc": "x"}, "entry 'a': unknown key 'lokc'"),
        ({"kind": "thing"}, "entry 'a': kind 'thing' is not one of cache, environment, state, temporary"),
        ({"title": ""}, "entry 'a': 'title' is missing"),
        ({"id": "A b"}, "entry 'A b': an id is made of small letters"),
        ({"locations": []}, "entry 'a': 'locations' is missing"),
        ({"locations": "~/a"}, "entry 'a': 'locations' is not a list"),
        ({"locations": [{"path": "~/a", "env": "A"}]}, "needs one of env, path, file"),
        ({"locations": [{"pth": "~/a"}]}, "has an unknown key"),
        ({"locations": [{"file": "~/a", "format": "xml", "key": "a"}]}, "needs a key and a format out of toml"),
        ({"locations": [{"env": "A", "expand": "%"}]}, "expands what nobody knows"),
        ({"proven": "yes"}, "entry 'a': 'proven' is not a bool"),
        ({"proven": True}, "entry 'a': what is only remembered is not proven"),
        ({"processes": [1]}, "entry 'a': 'processes' is not a list"),
        ({"lock": ["../x"]}, "entry 'a': lock '../x' is not below the cache"),
    ],
)
def test_a_wrong_catalogue_is_refused(change: dict[str, Any], why: str) -> None:
    """A mistake in catalog.toml names the entry and the key."""
    assert len(parse_rules({"cache": [RIGHT]})) == 1
    with pytest.raises(ConfigError, match=r"Cannot use the catalogue: ") as caught:
        parse_rules({"cache": [RIGHT | change]})
    assert why in caught.value.message


def test_an_id_is_there_once() -> None:
    """Two entries with one id are refused."""
    with pytest.raises(ConfigError, match="entry 'a': the id is there twice"):
        parse_rules({"cache": [RIGHT, RIGHT]})


# ---- where each tool looks -----------------------------------------------


def test_the_defaults(home: Home) -> None:
    """Without variables and files each tool's default holds, at the level that may become a link."""
    expected = {
        "pip": ".cache/pip", "uv-cache": ".cache/uv", "uv-tools": ".local/share/uv/tools", "poetry": ".cache/pypoetry",
        "pipx": ".local/share/pipx", "pre-commit": ".cache/pre-commit", "conda-pkgs": ".conda/pkgs", "conda-envs": ".conda/envs",
        "hf-hub": ".cache/huggingface/hub", "hf-datasets": ".cache/huggingface/datasets", "hf-xet": ".cache/huggingface/xet",
        "torch-hub": ".cache/torch", "npm": ".npm", "pnpm-store": ".local/share/pnpm/store", "yarn1": ".cache/yarn",
        "yarn-berry": ".yarn/berry", "bun": ".bun/install/cache", "cargo": ".cargo", "go-build": ".cache/go-build",
        "go-mod": "go/pkg/mod", "ccache": ".cache/ccache",
    }  # fmt: skip
    caches = home.resolve()
    assert {name: caches[name].path for name in expected} == {name: f"{home.path}/{place}" for name, place in expected.items()}
    assert {caches[name].rule for name in expected} == {"default"}


def test_xdg_moves_those_that_follow_it_and_no_other(home: Home) -> None:
    """npm, cargo and conda ignore XDG; a relative XDG variable is ignored by all."""
    env = {"XDG_CACHE_HOME": "/xc", "XDG_DATA_HOME": "/xd", "XDG_CONFIG_HOME": "/xf"}
    moved = {
        "pip": "/xc/pip", "uv-cache": "/xc/uv", "uv-tools": "/xd/uv/tools", "poetry": "/xc/pypoetry", "pipx": "/xd/pipx",
        "pre-commit": "/xc/pre-commit", "hf-hub": "/xc/huggingface/hub", "torch-hub": "/xc/torch",
        "pnpm-store": "/xd/pnpm/store", "yarn1": "/xc/yarn", "yarn-berry": "/xd/yarn/berry", "go-build": "/xc/go-build",
        "bun": "/xc/.bun/install/cache",
        "ccache": "/xc/ccache",
    }  # fmt: skip
    caches, relative = home.resolve(env), home.resolve({name: value[1:] for name, value in env.items()})
    assert {name: caches[name].path for name in moved} == moved
    assert caches["pip"].rule == "XDG_CACHE_HOME"
    for name in ("npm", "cargo", "conda-pkgs", "go-mod"):
        assert caches[name].path == home.resolve()[name].path
    assert {name: cache.path for name, cache in relative.items() if name != "yarn-berry"} == {
        name: cache.path for name, cache in home.resolve().items() if name != "yarn-berry"
    }


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("pip", "PIP_CACHE_DIR"), ("uv-cache", "UV_CACHE_DIR"), ("uv-tools", "UV_TOOL_DIR"), ("poetry", "POETRY_CACHE_DIR"),
        ("pipx", "PIPX_HOME"), ("pre-commit", "PRE_COMMIT_HOME"), ("conda-pkgs", "CONDA_PKGS_DIRS"),
        ("conda-envs", "CONDA_ENVS_DIRS"), ("conda-envs", "CONDA_ENVS_PATH"), ("hf-hub", "HF_HUB_CACHE"),
        ("hf-hub", "HUGGINGFACE_HUB_CACHE"), ("hf-datasets", "HF_DATASETS_CACHE"), ("hf-xet", "HF_XET_CACHE"),
        ("torch-hub", "TORCH_HOME"), ("npm", "npm_config_cache"), ("npm", "NPM_CONFIG_CACHE"),
        ("pnpm-store", "npm_config_store_dir"), ("yarn1", "YARN_CACHE_FOLDER"), ("yarn-berry", "YARN_GLOBAL_FOLDER"),
        ("bun", "BUN_INSTALL_CACHE_DIR"), ("cargo", "CARGO_HOME"), ("go-build", "GOCACHE"), ("go-mod", "GOMODCACHE"),
        ("ccache", "CCACHE_DIR"),
    ],
)  # fmt: skip
def test_a_tools_own_variable_beats_everything(home: Home, name: str, variable: str) -> None:
    """The variable beats file, XDG and default; empty it is as good as none; a relative one is passed over and told."""
    home.write(".config/pip/pip.conf", "[global]\ncache-dir = /file\n")
    home.write(".config/uv/uv.toml", 'cache-dir = "/file"\n')
    home.write(".npmrc", "cache=/file\nstore-dir=/file\n")
    home.write(".condarc", "pkgs_dirs: [/file]\nenvs_dirs: [/file]\n")
    xdg = {"XDG_CACHE_HOME": "/xc", "XDG_DATA_HOME": "/xd"}
    assert home.place(name, xdg | {variable: "/v/./x/"}) == ("/v/x", variable)
    assert home.place(name, xdg | {variable: ""}) == home.place(name, xdg)
    passed_over = home.resolve(xdg | {variable: "some/where"})[name]
    assert passed_over.path == home.resolve(xdg)[name].path
    assert f"{variable} says 'some/where', which depends on the working directory, so it is not watched" in passed_over.caveats


@pytest.mark.parametrize(
    ("name", "variable", "tilde", "dollar"),
    [
        ("pip", "PIP_CACHE_DIR", True, False),
        ("uv-cache", "UV_CACHE_DIR", False, False),
        ("hf-hub", "HF_HUB_CACHE", True, True),
        ("hf-xet", "HF_XET_CACHE", False, False),
        ("torch-hub", "TORCH_HOME", True, False),
        ("conda-pkgs", "CONDA_PKGS_DIRS", True, True),
        ("npm", "npm_config_cache", True, False),
        ("pipx", "PIPX_HOME", True, False),
        ("pre-commit", "PRE_COMMIT_HOME", False, False),
    ],
)
def test_what_each_tool_expands(home: Home, name: str, variable: str, tilde: bool, dollar: bool) -> None:
    """`~` and `$NAME` in a variable are replaced for those tools that do it themselves; else the value is relative."""
    default = home.place(name)
    assert home.place(name, {variable: "~/x"}) == (("~/x", variable) if tilde else default)
    assert home.place(name, {variable: "$BIG/x", "BIG": "/big"}) == (("/big/x", variable) if dollar else default)


PIP = "[global]\ncache-dir = {}\n"


def test_pip_reads_its_files_in_its_order(home: Home) -> None:
    """The later of pip's files wins, from /etc/xdg up to the one that PIP_CONFIG_FILE names."""
    env: dict[str, str] = {}
    home.write("/etc/xdg/pip/pip.conf", PIP.format("/1"))
    assert home.place("pip") == ("/1", "/etc/xdg/pip/pip.conf [global] cache-dir")
    home.write("/etc/pip.conf", PIP.format("/2"))
    assert home.place("pip") == ("/2", "/etc/pip.conf [global] cache-dir")
    home.write(".pip/pip.conf", PIP.format("/3"))
    assert home.place("pip") == ("/3", "~/.pip/pip.conf [global] cache-dir")
    home.write(".config/pip/pip.conf", PIP.format("~/4 b"))
    assert home.place("pip") == ("~/4 b", "~/.config/pip/pip.conf [global] cache-dir")
    home.write("venv/pip.conf", PIP.format("/5"))
    env["VIRTUAL_ENV"] = f"{home.path}/venv"
    assert home.place("pip", env) == ("/5", "~/venv/pip.conf [global] cache-dir")
    home.write("special.conf", PIP.format("/6"))
    env["PIP_CONFIG_FILE"] = f"{home.path}/special.conf"
    assert home.place("pip", env) == ("/6", "~/special.conf [global] cache-dir")


def test_pip_with_a_configuration_file_of_its_own_ignores_the_users(home: Home) -> None:
    """PIP_CONFIG_FILE puts the user's files aside even if it says nothing; /dev/null puts all aside."""
    home.write(".config/pip/pip.conf", PIP.format("/user"))
    home.write("/etc/pip.conf", PIP.format("/etc-wide"))
    home.write("special.conf", "[global]\nindex-url = x\n")
    assert home.place("pip", {"PIP_CONFIG_FILE": f"{home.path}/special.conf"})[0] == "/etc-wide"
    assert home.place("pip", {"PIP_CONFIG_FILE": f"{home.path}/missing.conf"})[0] == "/user"
    assert home.place("pip", {"PIP_CONFIG_FILE": "/dev/null"}) == ("~/.cache/pip", "default")


def test_a_dollar_in_pip_conf_is_relative(home: Home) -> None:
    """pip does not expand $HOME: the value is passed over, and the cache says so."""
    home.write(".config/pip/pip.conf", PIP.format("$HOME/pipc"))
    pip = home.resolve({"HOME": str(home.path)})["pip"]
    assert (pip.path, pip.rule) == (f"{home.path}/.cache/pip", "default")
    assert any("$HOME/pipc" in caveat and "~/.config/pip/pip.conf" in caveat for caveat in pip.caveats)


def test_pip_conf_has_many_forms(home: Home) -> None:
    """Underscores, a colon, comments and other sections are read as pip reads them; nonsense gives nothing."""
    home.write(".config/pip/pip.conf", "# mine\n[install]\ncache-dir = /no\n[global]\ncache_dir: /yes\n")
    assert home.place("pip")[0] == "/yes"
    for text in ("no section", "[global]\ncache-dir =\n", "[global\n", "\0"):
        home.write(".config/pip/pip.conf", text)
        assert home.place("pip") == ("~/.cache/pip", "default")


def test_a_cache_that_is_switched_off_says_so(home: Home) -> None:
    """PIP_NO_CACHE_DIR or no-cache-dir leaves the place and adds a caveat; a false word does not."""
    home.write(".config/pip/pip.conf", "[global]\nno-cache-dir = true\n")
    assert "~/.config/pip/pip.conf [global] no-cache-dir switches this cache off" in home.resolve()["pip"].caveats
    assert "PIP_NO_CACHE_DIR switches this cache off" in home.resolve({"PIP_NO_CACHE_DIR": "1"})["pip"].caveats
    assert not any("switches" in caveat for caveat in home.resolve({"UV_NO_CACHE": "0"})["uv-cache"].caveats)


def test_uv_reads_its_configuration(home: Home) -> None:
    """uv.toml beats XDG; UV_CONFIG_FILE beats it; UV_NO_CONFIG puts it aside; `~` is no home for uv."""
    home.write("/etc/uv/uv.toml", 'cache-dir = "/etc-wide"')
    assert home.place("uv-cache") == ("/etc-wide", "/etc/uv/uv.toml cache-dir")
    home.write(".config/uv/uv.toml", 'cache-dir = "/data1/uv"')
    assert home.place("uv-cache", {"XDG_CACHE_HOME": "/xc"}) == ("/data1/uv", "~/.config/uv/uv.toml cache-dir")
    assert home.place("uv-cache", {"UV_NO_CONFIG": "1"})[1] == "default"
    home.write("other.toml", 'cache-dir = "/other"')
    assert home.place("uv-cache", {"UV_CONFIG_FILE": f"{home.path}/other.toml"})[0] == "/other"
    home.write(".config/uv/uv.toml", 'cache-dir = "~/uv"')
    assert home.place("uv-cache")[0] == "/etc-wide"


def test_npm_reads_npmrc(home: Home) -> None:
    """`cache=` in ~/.npmrc with ${NAME} as npm expands it; quotes and comments; sections and $NAME do not count."""
    for line, place in (
        ("cache=/data1/npm", "/data1/npm"),
        ("cache = ${BIG}/npm", "/big/npm"),
        ('cache="~/n"', "~/n"),
        ("cache=/a ; why", "/a"),
        ("cache=/a\ncache=/b", "/b"),
        ("; cache=/a", "~/.npm"),
        ("cache=$BIG/npm", "~/.npm"),
        ("cache=${UNSET}/npm", "~/.npm"),
        ("[x]\ncache=/a", "~/.npm"),
    ):
        home.write(".npmrc", f"//registry/:_authToken=x\n{line}\n")
        assert home.place("npm", {"BIG": "/big"})[0] == place, line
    assert home.place("npm", {"Npm_Config_Cache": "/v"}) == ("/v", "Npm_Config_Cache")


def test_hugging_face_follows_hf_home(home: Home) -> None:
    """HF_HOME moves hub, datasets and xet, with `~` for all, and never itself becomes the entry: the token lies in it."""
    caches = home.resolve({"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/xc"})
    assert [caches[name].path for name in ("hf-hub", "hf-datasets", "hf-xet")] == [
        f"{home.path}/hf/{name}" for name in ("hub", "datasets", "xet")
    ]
    assert caches["hf-hub"].rule == "HF_HOME"
    assert home.place("hf-hub", {"HF_HOME": "$BIG/hf", "BIG": "/big"}) == ("/big/hf/hub", "HF_HOME")
    assert home.place("hf-hub", {"HF_HUB_CACHE": "/new", "HUGGINGFACE_HUB_CACHE": "/old"})[0] == "/new"


CONDARC = """
channels:
  - conda-forge
pkgs_dirs:   # mine
  - /data1/a
  # another
  - "~/b c"   # quoted
  - $BIG/c
envs_dirs: [/data1/envs, '/data2/envs']
auto_activate_base: false
"""


def test_condarc_lists_give_several_caches(home: Home) -> None:
    """Each configured directory is an entry of its own; pkgs_dirs replaces the defaults, envs_dirs goes before them."""
    home.write(".condarc", CONDARC)
    home.write("miniforge3/conda-meta/history", "")
    (home.path / "miniforge3/envs").mkdir()
    caches = home.resolve({"BIG": "/big", "CONDA_PKGS_DIRS": "/first, /second"})
    pkgs = [cache.path for name, cache in caches.items() if name.startswith("conda-pkgs")]
    assert pkgs == ["/first", "/second", "/data1/a", f"{home.path}/b c", "/big/c"]
    envs = {name: (cache.path, cache.rule) for name, cache in caches.items() if name.startswith("conda-envs")}
    assert envs == {
        "conda-envs": ("/data1/envs", "~/.condarc envs_dirs"),
        "conda-envs-2": ("/data2/envs", "~/.condarc envs_dirs"),
        "conda-envs-3": (f"{home.path}/miniforge3/envs", "default"),
    }
    assert caches["conda-envs-2"].title == "conda environments 2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkgs_dirs: /one\n", ["/one"]),
        ("pkgs_dirs:\n- /one\n- /two\n", ["/one", "/two"]),
        ("pkgs_dirs: []\n", ["~/.conda/pkgs"]),
        ("pkgs_dirs: &x\n  - /one\n", ["~/.conda/pkgs"]),
        ("other:\n  pkgs_dirs:\n    - /no\n", ["~/.conda/pkgs"]),
        ("# pkgs_dirs: [/no]\n", ["~/.conda/pkgs"]),
        ("pkgs_dirs: null\n", ["~/.conda/pkgs"]),
        ("\x00\xff: [", ["~/.conda/pkgs"]),
    ],
)
def test_the_forms_of_a_condarc(home: Home, text: str, expected: list[str]) -> None:
    """What conda writes is read, and what is not understood gives the default."""
    home.write(".condarc", text)
    caches = home.resolve()
    found = [cache.path.replace(str(home.path), "~") for name, cache in caches.items() if name.startswith("conda-pkgs")]
    assert found == expected


def test_the_installations_of_conda(home: Home) -> None:
    """A base is known by conda-meta: by its usual place, CONDA_EXE, or an active environment; defaults beyond one must exist."""
    home.write("miniconda3/conda-meta/history", "")
    home.write("anaconda3/not-conda", "")
    assert home.place("conda-pkgs") == ("~/miniconda3/pkgs", "default")
    assert "conda-pkgs-2" not in home.resolve()
    home.write("opt/conda/conda-meta/history", "")
    exe = {"CONDA_EXE": f"{home.path}/opt/conda/bin/conda"}
    assert home.place("conda-pkgs", exe) == ("~/opt/conda/pkgs", "CONDA_EXE")
    (home.path / "miniconda3/pkgs").mkdir()
    assert home.place("conda-pkgs-2", exe) == ("~/miniconda3/pkgs", "default")
    active = {"CONDA_PREFIX": f"{home.path}/opt/conda/envs/torch"}
    assert home.place("conda-envs", active) == ("~/opt/conda/envs", "CONDA_PREFIX")
    (home.path / "mm").mkdir()
    assert home.resolve({"MAMBA_ROOT_PREFIX": f"{home.path}/mm"})["micromamba-root"].path == f"{home.path}/mm"


@pytest.mark.parametrize(
    ("name", "file", "text", "place", "shown"),
    [
        ("poetry", ".config/pypoetry/config.toml", 'cache-dir = "/f"\n[virtualenvs]\npath = "/v"\n', "/f", "cache-dir"),
        ("poetry-virtualenvs", ".config/pypoetry/config.toml", 'cache-dir = "/f"\n[virtualenvs]\npath = "/v"\n', "/v",
         "[virtualenvs] path"),
        ("poetry-virtualenvs", ".config/pypoetry/config.toml", 'cache-dir = "~/f"\n', "~/f/virtualenvs", "cache-dir"),
        ("bun", ".bunfig.toml", '[install.cache]\ndir = "~/b"\n', "~/b", "[install.cache] dir"),
        ("bun", ".bunfig.toml", '[install]\ncache = "/b"\n', "/b", "[install] cache"),
        ("yarn1", ".yarnrc", '# x\ncache-folder "/f"\n', "/f", "cache-folder"),
        ("yarn1", ".yarnrc", 'cache-folder "./f"\n', "~/f", "cache-folder"),
        ("yarn1", ".npmrc", "cache-folder=/f\n", "/f", "cache-folder"),
        ("yarn-berry", ".yarnrc.yml", 'nodeLinker: pnp\n\nglobalFolder: "/f"\n', "/f", "globalFolder"),
        ("yarn-berry", ".yarnrc.yml", "globalFolder: ./f\n", "~/f", "globalFolder"),
        ("pnpm-store", ".config/pnpm/rc", "store-dir=/f\n", "/f", "store-dir"),
        ("pnpm-store", ".config/pnpm/config.yaml", "storeDir: ~/f\n", "~/f", "storeDir"),
        ("go-build", ".config/go/env", "GOCACHE=/f\nGOMODCACHE=/m\n", "/f", "GOCACHE"),
        ("go-mod", ".config/go/env", "GOCACHE=/f\nGOMODCACHE=/m\n", "/m", "GOMODCACHE"),
        ("go-mod", ".config/go/env", "GOPATH=/g:/h\n", "/g/pkg/mod", "GOPATH"),
        ("ccache", ".config/ccache/ccache.conf", "max_size = 5G\ncache_dir = $BIG/cc\n", "/big/cc", "cache_dir"),
        ("cargo-target", ".cargo/config.toml", '[build]\ntarget-dir = "/t"\n', "/t", "[build] target-dir"),
        ("sccache", ".config/sccache/config", '[cache.disk]\ndir = "/s"\n', "/s", "[cache.disk] dir"),
        ("maven", ".m2/settings.xml", "<settings>\n<localRepository>\n${user.home}/r p\n</localRepository></settings>", "~/r p",
         "<localRepository>"),
        ("maven", ".m2/settings.xml", "<!-- <localRepository>/no</localRepository> --><localRepository>${env.BIG}/a&amp;b"
         "</localRepository>", "/big/a&b", "<localRepository>"),
        ("podman", ".config/containers/storage.conf", '[storage]\ngraphroot = "$HOME/g"\n', "~/g", "[storage] graphroot"),
        ("docker-rootless", ".config/docker/daemon.json", '{"data-root": "/d"}', "/d", "data-root"),
        ("ultralytics-data-datasets", ".config/Ultralytics/settings.json", '{"datasets_dir": "/d", "runs_dir": 1}', "/d",
         "datasets_dir"),
    ],
)  # fmt: skip
def test_other_tools_files(home: Home, name: str, file: str, text: str, place: str, shown: str) -> None:
    """A key in the tool's own file beats XDG and default, and the rule names the file."""
    home.write(file, text)
    assert home.place(name, {"XDG_CACHE_HOME": "/xc", "XDG_DATA_HOME": "/xd", "BIG": "/big"}) == (
        place, f"~/{file} {shown}",
    )  # fmt: skip


def test_old_places_that_exist_win(home: Home) -> None:
    """~/.ccache and ~/.local/pipx count if they are there, before XDG."""
    xdg = {"XDG_CACHE_HOME": "/xc", "XDG_DATA_HOME": "/xd"}
    assert home.place("ccache", xdg)[0] == "/xc/ccache"
    for old in (".ccache", ".local/pipx"):
        (home.path / old).mkdir(parents=True)
    assert home.place("ccache", xdg)[0] == "~/.ccache"
    assert home.place("pipx", xdg)[0] == "~/.local/pipx"
    assert home.place("go-mod", {"GOPATH": "/g1:/g2"}) == ("/g1/pkg/mod", "GOPATH")
    assert home.place("pnpm-store", {"PNPM_HOME": "/p"}) == ("/p/store", "PNPM_HOME")
    assert home.place("bun", {"BUN_INSTALL": "/b"}) == ("/b/install/cache", "BUN_INSTALL")


def test_a_file_that_cannot_be_read_is_told(home: Home) -> None:
    """A directory or a broken file in place of a tool's file stops nothing."""
    (home.path / ".npmrc").mkdir()
    home.write(".config/uv/uv.toml", "cache-dir = [")
    assert home.place("npm")[0] == "~/.npm"
    assert "'~/.npmrc' cannot be read: it is not a file" in home.resolve()["npm"].caveats
    assert home.place("uv-cache")[0] == "~/.cache/uv"


def test_a_link_on_the_way_is_left_in_the_path(home: Home) -> None:
    """The path stays as the tool knows it, whether it or its parent is a link."""
    (home.path / "big").mkdir()
    (home.path / ".cache").symlink_to("big")
    (home.path / ".npm").symlink_to("/data1/npm")
    assert home.place("pip")[0] == "~/.cache/pip"
    assert home.place("npm")[0] == "~/.npm"


# ---- the user's word -----------------------------------------------------


def test_a_cache_of_the_users_own(home: Home) -> None:
    """A new name with a path is a movable cache, first in the list; it says so itself if it is not."""
    mine = home.resolve(mine=CacheOverride(path="/m", limit_bytes=5, title="My things"))["mine"]
    assert mine == Cache("mine", "My things", Kind.CACHE, "/m", "[caches.mine]", move=True, limit_bytes=5)
    assert next(iter(home.resolve(mine=CacheOverride(path="/m")))) == "mine"
    other = home.resolve(mine=CacheOverride(path="/m", kind=Kind.STATE, move=False))["mine"]
    assert (other.kind, other.move) == (Kind.STATE, False)


def test_a_known_cache_is_overridden_key_by_key(home: Home) -> None:
    """kind, limit, move, path and title each replace their own part and leave the tool's facts."""
    word = CacheOverride(path="/p", kind=Kind.STATE, limit_bytes=7, move=False, title="T")
    uv = home.resolve(uv_cache=word)["uv-cache"]
    assert (uv.path, uv.rule, uv.kind, uv.limit_bytes, uv.move, uv.title) == ("/p", "[caches.uv-cache]", Kind.STATE, 7, False, "T")
    assert uv.lock == (".lock",)
    limited = home.resolve(pip=CacheOverride(limit_bytes=7))["pip"]
    assert (limited.path, limited.kind, limited.limit_bytes, limited.move) == (f"{home.path}/.cache/pip", Kind.CACHE, 7, None)


def test_the_user_may_opt_in_to_what_is_only_reported(home: Home) -> None:
    """move = true takes the report-only reason away; a path or a limit alone does not."""
    assert home.resolve(keras=CacheOverride(limit_bytes=1))["keras"].report_only
    assert home.resolve(keras=CacheOverride(path="/k"))["keras"].report_only
    assert home.resolve(keras=CacheOverride(move=True))["keras"].report_only is None


def test_one_word_for_several_conda_directories(home: Home) -> None:
    """[caches.conda-envs] speaks for all of them, [caches.conda-envs-2] for one; a path leaves one."""
    env = {"CONDA_ENVS_DIRS": "/a:/b"}
    caches = home.resolve(env, conda_envs=CacheOverride(move=True, limit_bytes=3), conda_envs_2=CacheOverride(move=False))
    assert [(caches[name].move, caches[name].limit_bytes) for name in ("conda-envs", "conda-envs-2")] == [(True, 3), (False, 3)]
    alone = home.resolve(env, conda_envs=CacheOverride(path="/c"))
    assert [cache.path for name, cache in alone.items() if name.startswith("conda-envs")] == ["/c"]
    assert find_rule("conda-envs-2") is find_rule("conda-envs")
    assert find_rule("pip-2") is None
    assert find_rule("conda-envs-1") is None


# ---- overlaps ------------------------------------------------------------


def test_a_cache_inside_another_goes_with_it(home: Home) -> None:
    """Of two movable caches the inner one is reported only; so is the second of two at one path."""
    caches = home.resolve({"PIP_CACHE_DIR": f"{home.path}/.npm/pip", "UV_CACHE_DIR": f"{home.path}/.cache/torch"})
    assert caches["npm"].report_only is None
    assert caches["pip"].report_only == f"it lies inside npm ('{home.path}/.npm') and goes with it"
    assert caches["uv-cache"].report_only is None
    assert caches["torch-hub"].report_only == "it is the same directory as uv-cache"


def test_a_cache_never_carries_an_environment_off(home: Home) -> None:
    """A cache around an environment or state is reported only, unless its user said move = true."""
    env = {"UV_TOOL_DIR": f"{home.path}/.npm/tools", "WANDB_DIR": f"{home.path}/.cache/torch/runs"}
    same = home.resolve({"PIP_CACHE_DIR": "/s", "PIPX_HOME": "/s"})
    assert same["pip"].report_only == "it holds pipx ('/s'), which is no cache"
    assert same["pipx"].report_only is None
    caches = home.resolve(env)
    assert caches["npm"].report_only == f"it holds uv-tools ('{home.path}/.npm/tools'), which is no cache"
    assert caches["uv-tools"].report_only is None
    assert "wandb-runs" in str(caches["torch-hub"].report_only)
    asked = home.resolve(env, npm=CacheOverride(move=True))
    assert (asked["npm"].report_only, asked["uv-tools"].report_only) == (
        None, f"it lies inside npm ('{home.path}/.npm') and goes with it",
    )  # fmt: skip


def test_a_users_directory_around_known_caches(home: Home) -> None:
    """[caches.all] path = ~/.cache takes everything in it along, and nothing in it moves on its own."""
    caches = home.resolve(all=CacheOverride(path=f"{home.path}/.cache"))
    assert caches["all"].report_only is None
    for cache in caches.values():
        if cache.path.startswith(f"{home.path}/.cache/"):
            assert cache.report_only, cache.id
    kept = home.resolve(all=CacheOverride(path=f"{home.path}/.cache", move=False))
    assert kept["pip"].report_only is None


def test_an_overlap_behind_a_link_is_seen(home: Home) -> None:
    """Two names of one directory are one directory, as long as the link is above it."""
    (home.path / "big").mkdir()
    (home.path / ".cache").symlink_to("big")
    caches = home.resolve(mine=CacheOverride(path=f"{home.path}/big/pip"), more=CacheOverride(path=f"{home.path}/big/uv/x"))
    assert caches["pip"].report_only == "it is the same directory as mine"
    assert str(caches["more"].report_only).startswith("it lies inside uv-cache")


def test_the_home_itself_is_never_movable(home: Home) -> None:
    """A variable that points at the home, or above it, makes the entry report-only."""
    for place in (str(home.path), str(home.path.parent), "/"):
        caches = home.resolve({"PIP_CACHE_DIR": place})
        assert caches["pip"].report_only == "it is or holds the home directory"
        assert caches["npm"].report_only is None


def test_no_two_movable_caches_overlap_whatever_the_variables(home: Home, scattered: Callable[[int], dict[str, str]]) -> None:
    """With variables pointing anywhere into each other, no movable cache lies in another and none carries an environment."""
    for seed in range(60):
        caches = list(home.resolve(scattered(seed)).values())
        movable = [cache for cache in caches if cache.report_only is None and cache.move is not False]
        for outer in movable:
            for inner in caches:
                inside = inner is not outer and f"{inner.path}/".startswith(f"{outer.path}/")
                assert not (inside and inner in movable), (seed, outer.id, inner.id)
                assert not (inside and outer.kind is Kind.CACHE and inner.kind is not Kind.CACHE), (seed, outer.id, inner.id)


@pytest.fixture
def scattered(home: Home) -> Callable[[int], dict[str, str]]:
    """Return a function that points some variables at random places of a small tree, the same for the same seed."""
    import random

    names = (
        "PIP_CACHE_DIR",
        "UV_CACHE_DIR",
        "UV_TOOL_DIR",
        "HF_HUB_CACHE",
        "TORCH_HOME",
        "npm_config_cache",
        "WANDB_DIR",
        "PIPX_HOME",
    )

    def choose(seed: int) -> dict[str, str]:
        dice = random.Random(seed)
        return {name: f"{home.path}/x/" + "/".join(dice.choices("ab", k=dice.randint(1, 3))) for name in names}

    return choose
