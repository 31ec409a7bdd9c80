"""A module that another package imports at its top and hardly ever uses, loaded when it is first used."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Late(types.ModuleType):
    """Stands for a module of the same name; the first attribute that is asked of it loads the module (PEP 562)."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)


@contextlib.contextmanager
def first_used(name: str) -> Iterator[None]:
    """
    Let `import NAME` within the block bind a stand-in that loads the module at its first use; whoever imports it later gets it.

    importlib's own LazyLoader does not serve: `import NAME` asks a module in sys.modules for its `__spec__`, and that loads it.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = _Late(name)
    try:
        yield
    finally:
        if isinstance(sys.modules.get(name), _Late):
            del sys.modules[name]
