"""
What the user chose, as one frozen value: a TOML file with the environment laid over it.

Everything is checked while loading, so that whoever holds `Settings` never meets a wrong value; every mistake that is
found is told in one message that names key, value and place. Only `notify` holds secrets, and no message shows them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, PlainValidator, PrivateAttr, SecretStr, ValidationError

from survived.errors import ConfigError
from survived.model import Kind, Mark, Rules, Watermarks
from survived.settings import checks, destinations, late, values
from survived.settings.catalog import CacheOverride, Search
from survived.settings.paths import resolve_paths
from survived.settings.sources import Document, Environment, read_document, read_environment

with late.first_used("asyncio"):  # pydantic-settings names it for a command line that nobody here has: 3 MiB
    from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

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
_Textfile = Annotated[str, PlainValidator(values.read_textfile)]
_PathList = Annotated[tuple[str, ...], PlainValidator(values.read_paths)]
_CachePath = Annotated[str, PlainValidator(values.read_cache_path)]
_Patterns = Annotated[tuple[str, ...], PlainValidator(values.read_patterns)]
_Kind = Annotated[Kind, PlainValidator(values.read_kind)]
_Kinds = Annotated[frozenset[Kind], PlainValidator(values.read_kinds)]
_Purge = Annotated[bool | str, PlainValidator(values.read_purge)]
_Hours = Annotated[tuple[tuple[int, int], ...], PlainValidator(values.read_hours)]
_Rate = Annotated[int, PlainValidator(values.read_rate)]
_Verify = Annotated[Literal["metadata", "content"], PlainValidator(values.read_verify)]


def _read_urls(given: object) -> tuple[SecretStr, ...]:
    return tuple(SecretStr(url) for url in destinations.read_urls(given))


_Urls = Annotated[tuple[SecretStr, ...], PlainValidator(_read_urls)]
_Tags = Annotated[frozenset[str], PlainValidator(destinations.read_tags)]
_MoreMirrors = Annotated[tuple[tuple[str, str], ...], PlainValidator(values.read_more_mirrors)]
_Watching = Annotated[Literal["off", "tell", "switch"], PlainValidator(values.read_watching)]
_Language = Annotated[Literal["auto", "en", "zh"], PlainValidator(destinations.read_language)]
_WebUrl = Annotated[SecretStr, PlainValidator(lambda given: SecretStr(destinations.read_web_url(given)))]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WatchSettings(_Section):
    """[watch]: which filesystems (None: those of / and $HOME), how full is too full, where CACHEDIR.TAG counts (None: ~/.cache)."""

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
    tagged_below: _PathList | None = None


class DataSettings(_Section):
    """
    [data]: where to. None for `disks` means found by itself; `keep_free` is the usage or free amount never passed, and from
    `high` on a disk hands what we put there on to another.

    `allow_exposed`: use a disk although other users can replace a folder above the store.
    """

    disks: _PathList | None = None
    keep_free: _KeepFree = Mark(usage=0.95)
    high: _MarkValue = Mark(usage=0.95)
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
    tagged: _Flag = False
    exclude: _Patterns = ()


class CacheSettings(_Section):
    """[caches.NAME]: an override of a known cache, or one of the user's own, which then has a path."""

    path: _CachePath | None = None
    kind: _Kind | None = None
    limit: _Bytes | None = None
    move: _Flag | None = None
    title: _Text | None = None
    pin: _Flag | None = None
    purge: _Purge | None = None


class NotifySettings(_Section):
    """
    [notify]: whom to tell, how often and in which language. `Settings.routes` gives the URLs; they are secrets.

    Times in seconds; a `repeat` of 0 is never, a `per_hour` of 0 is no limit.
    """

    urls: _Urls = ()
    urls_file: _PathText | None = None
    timeout: _Timeout = 60.0
    repeat: _Seconds = 86400.0
    gather: _Seconds = 5.0
    quiet_hours: _Hours = ()
    loud: _Tags = frozenset({"flood"})
    per_hour: _Count = 12
    language: _Language = "auto"
    templates: _PathText | None = None
    heartbeat_url: _WebUrl | None = None
    heartbeat: _Timeout = 300.0


class MetricsSettings(_Section):
    """[metrics]: where Prometheus finds them. None for `textfile`: nowhere."""

    textfile: _Textfile | None = None


class MirrorsSettings(_Section):
    """[mirrors]: whether to look how the mirrors do that tools were led to, how often, in seconds, and (tool, URL) of more."""

    watch: _Watching = "tell"
    every: _Timeout = 3600.0
    more: _MoreMirrors = ()


class Settings(BaseSettings):
    """All settings. `Settings()` holds the defaults and reads nothing; see `load_settings` for the user's."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", case_sensitive=True)

    watch: WatchSettings = WatchSettings()
    data: DataSettings = DataSettings()
    move: MoveSettings = MoveSettings()
    caches: dict[str, CacheSettings] = {}
    notify: NotifySettings = NotifySettings()
    metrics: MetricsSettings = MetricsSettings()
    mirrors: MirrorsSettings = MirrorsSettings()

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
            data_high=self.data.high,
            kinds=move.kinds,
            min_size_bytes=move.min_size,
            settle_seconds=move.settle,
            budget_bytes=move.budget,
            quiet_hours=move.quiet_hours,
        )

    def overrides(self) -> dict[str, CacheOverride]:
        """Return [caches] as the catalogue takes it."""
        return {name: CacheOverride(c.path, c.kind, c.limit, c.move, c.title, c.pin, c.purge) for name, c in self.caches.items()}

    def search(self) -> Search:
        """Return what the catalogue shall look for, and what it shall leave alone."""
        return Search(self.watch.tagged_below, self.move.tagged, self.move.exclude)

    def notify_urls(self) -> tuple[str, ...]:
        """Return the Apprise URLs of `urls` and `urls_file` as they were at loading, each once. Never log them."""
        return tuple(self.routes())

    def routes(self) -> dict[str, frozenset[str]]:
        """Return each Apprise URL with the tags that it is restricted to, none for all. Never log them."""
        routes: dict[str, frozenset[str]] = {}
        for secret in (*self.notify.urls, *self._more_urls):
            tags, url = destinations.split_tags(secret.get_secret_value())
            before = routes.get(url, tags)
            routes[url] = tags | before if tags and before else frozenset()  # named once without tags it gets everything
        return routes

    def heartbeat_url(self) -> str | None:
        """Return the URL of the dead-man's switch. Never log it."""
        return None if self.notify.heartbeat_url is None else self.notify.heartbeat_url.get_secret_value()

    def effective(self) -> dict[str, Any]:
        """Return the settings as a configuration file would write them; what is secret reads "(hidden)"."""
        tables = (name for name in SECTIONS if name != "caches")
        shown: dict[str, Any] = {name: _show(getattr(self, name)) for name in tables}
        shown["watch"] |= {
            name: values.write_inodes_mark(getattr(self.watch, name)) for name in ("inodes_high", "inodes_low", "inodes_flood")
        }
        shown["data"]["keep_free"] = values.write_keep_free(self.data.keep_free)
        shown["caches"] = {name: _show(cache) for name, cache in self.caches.items()}
        return shown


_SECONDS = frozenset({"dwell", "cooldown", "settle", "timeout", "repeat", "gather", "heartbeat", "every"})
_SIZES = frozenset({"min_size", "ballast", "limit", "budget"})
_PATH_KEYS = frozenset({
    ("watch", "filesystems"), ("watch", "tagged_below"), ("move", "exclude"), ("data", "disks"),
    ("notify", "urls_file"), ("notify", "templates"), ("metrics", "textfile"),
})  # fmt: skip
_LISTS: dict[tuple[str, ...], str | None] = {
    ("watch", "filesystems"): ",", ("data", "disks"): ",", ("watch", "tagged_below"): ",", ("move", "exclude"): ",",
    ("move", "kinds"): ",", ("move", "quiet_hours"): ",", ("notify", "urls"): None, ("notify", "quiet_hours"): ",",
    ("notify", "loud"): ",", ("mirrors", "more"): ",",
}  # fmt: skip
SECTIONS: dict[str, type[BaseModel]] = {
    "watch": WatchSettings,
    "data": DataSettings,
    "move": MoveSettings,
    "caches": CacheSettings,
    "notify": NotifySettings,
    "metrics": MetricsSettings,
    "mirrors": MirrorsSettings,
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
        report.check_purges(settings.overrides())
        if settings.notify.urls_file is not None:
            lines = destinations.read_urls_file(settings.notify.urls_file, report)
            settings._more_urls = tuple(SecretStr(line) for line in lines)
    notify = document.values.get("notify")
    for name in ("urls", "heartbeat_url") if isinstance(notify, dict) and document.readable_by_others else ():
        if isinstance(notify, dict) and notify.get(name):
            verb = "are secrets" if name == "urls" else "is a secret"
            report.add_exposed(file, f"it holds notify.{name}, which {verb}, and other users may read it")
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


def _show(section: BaseModel) -> dict[str, Any]:
    return {name: _write(name, getattr(section, name)) for name in type(section).model_fields}


def _write(name: str, value: Any) -> Any:
    """Return one value as the file writes it; None stays None, as TOML has no word for a key that is left out."""
    if name == "urls":
        return ["(hidden)"] * len(value)
    if name == "heartbeat_url" and value is not None:
        return "(hidden)"
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
