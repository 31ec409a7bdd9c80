"""
What the user chose, as one frozen value: a TOML file with the environment laid over it.

Everything is checked while loading, so that whoever holds `Settings` never meets a wrong value; every mistake that is
found is told in one message that names key, value and place. Only `notify` holds secrets, and no message shows them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from survived.errors import ConfigError
from survived.model import Kind, Mark, Rules, Watermarks
from survived.settings import checks, values
from survived.settings.catalog import CacheOverride
from survived.settings.paths import resolve_paths
from survived.settings.sources import Document, Environment, read_document, read_environment, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MarkValue = Annotated[Mark, PlainValidator(values.read_mark)]
_InodesMark = Annotated[Mark, PlainValidator(values.read_inodes_mark)]
_KeepFree = Annotated[Mark, PlainValidator(values.read_keep_free)]
_Seconds = Annotated[float, PlainValidator(values.read_seconds)]
_Timeout = Annotated[float, PlainValidator(values.read_timeout)]
_Bytes = Annotated[int, PlainValidator(values.read_bytes)]
_Count = Annotated[int, PlainValidator(values.read_count)]
_Flag = Annotated[bool, PlainValidator(values.read_flag)]
_Text = Annotated[str, PlainValidator(values.read_title)]
_PathText = Annotated[str, PlainValidator(values.read_path)]
_PathList = Annotated[tuple[str, ...], PlainValidator(values.read_paths)]
_Kind = Annotated[Kind, PlainValidator(values.read_kind)]
_Kinds = Annotated[frozenset[Kind], PlainValidator(values.read_kinds)]
_Hours = Annotated[tuple[tuple[int, int], ...], PlainValidator(values.read_hours)]
_Rate = Annotated[int, PlainValidator(values.read_rate)]
_Verify = Annotated[Literal["metadata", "content"], PlainValidator(values.read_verify)]


def _read_urls(given: object) -> tuple[SecretStr, ...]:
    return tuple(SecretStr(url) for url in values.read_urls(given))


_Urls = Annotated[tuple[SecretStr, ...], PlainValidator(_read_urls)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WatchSettings(_Section):
    """[watch]: which filesystems, and how full is too full. None for `filesystems` means those that hold / and $HOME."""

    filesystems: _PathList | None = None
    high: _MarkValue = Mark(usage=0.90)
    low: _MarkValue = Mark(usage=0.80)
    flood: _MarkValue = Mark(usage=0.97)
    inodes_high: _InodesMark = Mark(usage=0.90)
    inodes_low: _InodesMark = Mark(usage=0.80)
    inodes_flood: _InodesMark = Mark(usage=0.97)
    dwell: _Seconds = 30.0
    cooldown: _Seconds = 60.0
    max_watches: _Count = 512


class DataSettings(_Section):
    """
    [data]: where to. None for `disks` means found by itself; `keep_free` is the usage or free amount never passed.

    `allow_exposed`: use a disk although other users can replace a folder above the store.
    """

    disks: _PathList | None = None
    keep_free: _KeepFree = Mark(usage=0.95)
    allow_exposed: bool = False


class MoveSettings(_Section):
    """[move]: what may move and how. Sizes in bytes, times in seconds; `rate` in bytes a second, 0 for no limit."""

    kinds: _Kinds = frozenset({Kind.CACHE})
    min_size: _Bytes = 100 * 1024**2
    settle: _Seconds = 60.0
    verify: _Verify = "metadata"
    rate: _Rate = 0
    budget: _Bytes | None = None
    quiet_hours: _Hours = ()
    ballast: _Bytes = 1024**2


class CacheSettings(_Section):
    """[caches.NAME]: an override of a known cache, or one of the user's own, which then has a path."""

    path: _PathText | None = None
    kind: _Kind | None = None
    limit: _Bytes | None = None
    move: _Flag | None = None
    title: _Text | None = None


class NotifySettings(_Section):
    """[notify]: whom to tell. `Settings.notify_urls` gives the URLs; they are secrets."""

    urls: _Urls = ()
    urls_file: _PathText | None = None
    timeout: _Timeout = 30.0


class Settings(BaseSettings):
    """All settings. `Settings()` holds the defaults and reads nothing; see `load_settings` for the user's."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    watch: WatchSettings = WatchSettings()
    data: DataSettings = DataSettings()
    move: MoveSettings = MoveSettings()
    caches: dict[str, CacheSettings] = {}
    notify: NotifySettings = NotifySettings()

    _more_urls: tuple[SecretStr, ...] = PrivateAttr(default=())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (reads os.environ; the environment is a parameter here)
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the layers that `load_settings` read, the first winning, instead of anything of the process."""
        layers: tuple[dict[str, Any], ...] = init_settings().get("layers", ())
        # pydantic-settings treats an empty tuple as "the default sources", so there is always one layer.
        return tuple(InitSettingsSource(settings_cls, dict(layer)) for layer in layers or ({},))

    def rules(self) -> Rules:
        """Return the part that `decide/` needs."""
        watch, move = self.watch, self.move
        low, flood = watch.low, watch.flood
        if watch.high.free is not None:
            # Beside "20 GiB free" the default shares would mean terabytes on a large disk: what was not given follows high.
            low = low if "low" in watch.model_fields_set else Mark(free=2 * watch.high.free)
            flood = flood if "flood" in watch.model_fields_set else Mark(free=watch.high.free // 4)
        return Rules(
            bytes_marks=Watermarks(high=watch.high, low=low, flood=flood),
            inodes_marks=Watermarks(high=watch.inodes_high, low=watch.inodes_low, flood=watch.inodes_flood),
            dwell_seconds=watch.dwell,
            cooldown_seconds=watch.cooldown,
            keep_free=self.data.keep_free,
            kinds=move.kinds,
            min_size_bytes=move.min_size,
            settle_seconds=move.settle,
            budget_bytes=move.budget,
            quiet_hours=move.quiet_hours,
        )

    def overrides(self) -> dict[str, CacheOverride]:
        """Return [caches] as the catalogue takes it."""
        return {
            name: CacheOverride(path=cache.path, kind=cache.kind, limit_bytes=cache.limit, move=cache.move, title=cache.title)
            for name, cache in self.caches.items()
        }

    def notify_urls(self) -> tuple[str, ...]:
        """Return the Apprise URLs of `urls` and `urls_file` as they were at loading, each once. Never log them."""
        return tuple(dict.fromkeys(url.get_secret_value() for url in (*self.notify.urls, *self._more_urls)))

    def effective(self) -> dict[str, Any]:
        """Return the settings as a configuration file would write them; what is secret reads "(hidden)"."""
        shown: dict[str, Any] = {name: _show(getattr(self, name)) for name in ("watch", "data", "move", "notify")}
        shown["watch"] |= {
            name: values.write_inodes_mark(getattr(self.watch, name)) for name in ("inodes_high", "inodes_low", "inodes_flood")
        }
        shown["data"]["keep_free"] = values.write_keep_free(self.data.keep_free)
        shown["caches"] = {name: _show(cache) for name, cache in self.caches.items()}
        return shown


_SECONDS = frozenset({"dwell", "cooldown", "settle", "timeout"})
_SIZES = frozenset({"min_size", "ballast", "limit", "budget"})
_PATH_KEYS = frozenset({("watch", "filesystems"), ("data", "disks"), ("notify", "urls_file")})
_LISTS: dict[tuple[str, ...], str | None] = {
    ("watch", "filesystems"): ",",
    ("data", "disks"): ",",
    ("move", "kinds"): ",",
    ("move", "quiet_hours"): ",",
    ("notify", "urls"): None,
}
SECTIONS: dict[str, type[BaseModel]] = {
    "watch": WatchSettings,
    "data": DataSettings,
    "move": MoveSettings,
    "caches": CacheSettings,
    "notify": NotifySettings,
}
"""The tables of the file; below `caches` there is one more level, the names."""
KEYS: dict[str, tuple[str, ...]] = {name: tuple(section.model_fields) for name, section in SECTIONS.items()}


def load_settings(path: Path | None, env: Mapping[str, str], home: str) -> Settings:
    """
    Return the settings in the file `path` with those of `env` over them; `~` and `$VAR` in paths are of `home` and `env`.

    None stands for the usual file of this user, which may be missing: then the defaults hold. A `path` that is given must
    exist. Raises `ConfigError` with everything that is wrong in one message.
    """
    file = str(path or resolve_paths(env, home, os.getuid()).config_file)
    is_there = path is not None or os.path.lexists(file)
    document = read_document(file) if is_there else Document({})
    named = document.values.get("caches")
    layer = read_environment(env, _LISTS, named if isinstance(named, dict) else ())
    report = checks.Report(file, layer.names, KEYS)
    report.check_names(layer)
    for values_of_layer in (document.values, layer.values):
        report.expand_paths(values_of_layer, _PATH_KEYS, env, home)
    settings = _validate(document, layer, report)
    if settings is not None:
        given = _given(document.values) | set(layer.names)
        watch = settings.watch
        report.check_marks("", (watch.low, watch.high, watch.flood), given)
        report.check_marks("inodes_", (watch.inodes_low, watch.inodes_high, watch.inodes_flood), given)
        report.check_caches(settings.overrides(), home)
        if settings.notify.urls_file is not None:
            settings._more_urls = _read_urls_file(settings.notify.urls_file, report)
    notify = document.values.get("notify")
    if isinstance(notify, dict) and notify.get("urls") and document.readable_by_others:
        report.add_exposed(file, "it holds notify.urls, which are secrets, and other users may read it")
    report.finish()
    if settings is None:
        raise ConfigError(f"Cannot use '{file}': it is wrong in a way that survived cannot name.")
    return settings


def _validate(document: Document, layer: Environment, report: checks.Report) -> Settings | None:
    try:
        return Settings(layers=(layer.values, document.values))  # type: ignore[call-arg]
    except ValidationError as error:
        # include_input=False: an input may be a secret, and the sentences hold what may be shown.
        for item in error.errors(include_input=False, include_url=False):
            why = item.get("ctx", {}).get("error")
            report.add_invalid(tuple(str(part) for part in item["loc"]), item["type"], str(why) if why else None)
        return None


def _given(document: Mapping[str, Any]) -> set[tuple[str, ...]]:
    return {(name, key) for name, table in document.items() if isinstance(table, dict) for key in table}


def _read_urls_file(path: str, report: checks.Report) -> tuple[SecretStr, ...]:
    try:
        text, readable_by_others = read_text(path)
    except ConfigError as error:
        report.add(("notify", "urls_file"), error.message.rstrip(".").replace("Cannot read", "cannot read", 1))
        return ()
    if readable_by_others:
        report.add_exposed(path, "it holds Apprise URLs, which are secrets, and other users may read it")
    urls = []
    for number, line in enumerate(text.splitlines(), 1):
        if (url := line.strip()) and not url.startswith("#"):
            if not values.is_url(url):
                report.add(("notify", "urls_file"), f"line {number} of '{path}' is no Apprise URL (not shown: it may be secret)")
            urls.append(SecretStr(url))
    return tuple(urls)


def _show(section: BaseModel) -> dict[str, Any]:
    return {name: _write(name, getattr(section, name)) for name in type(section).model_fields}


def _write(name: str, value: Any) -> Any:
    """Return one value as the file writes it; None stays None, as TOML has no word for a key that is left out."""
    if name == "urls":
        return ["(hidden)"] * len(value)
    if name in _SECONDS:
        return values.write_seconds(value)
    if name == "quiet_hours":
        return values.write_hours(value)
    if name == "rate":
        return values.write_rate(value)
    if name in _SIZES and value is not None:
        return values.write_bytes(value)
    if isinstance(value, Mark):
        return values.write_mark(value)
    if isinstance(value, frozenset):
        return sorted(str(item) for item in value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Kind) else value
