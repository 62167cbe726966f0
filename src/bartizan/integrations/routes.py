"""What an application routes, in the words of the gate: one small function for each framework, by looks alone.

A path is spelled as text in which `ONE` stands for characters of one segment and `ANY` for anything, slashes too. What
a pattern of ours cannot say is spelled wider than it is, never narrower.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

ONE: Final = "\x01"
ANY: Final = "\x02"

_STARLETTE = re.compile(r"\{([^{}:]+)(?::[^{}]*)?\}")
_LITESTAR = re.compile(r"\{[^{}:]+:([^{}]+)\}")
_FLASK = re.compile(r"<(?:[^<>]*:)?([^<>:]+)>")
_DJANGO = re.compile(r"<(?:[^<>:]+:)?([^<>]+)>")
_ATOM = re.compile(r"(\()(?:\?P<\w+>|\?:)?|(\))|(\[\^?\]?(?:\\.|[^\]\\])*\]|\\[dwsDWS]|\\\W|[^\\|.()\[\]{}*+?^$])")
_REPEAT = re.compile(r"(?:[*+?]|\{\d*,?\d*\})[?+]?")


class Route(NamedTuple):
    """One route: `text` as its framework writes it, `methods` (None: any), `shape` and `rest` as a pattern has them."""

    text: str
    methods: frozenset[str] | None
    shape: tuple[str | None, ...]
    rest: bool


def route(text: str, spelled: str, methods: Iterable[str] | None) -> Route:
    """The route of a spelled path."""
    shape: list[str | None] = []
    segments = spelled.removeprefix("/").removesuffix("/").split("/")
    for segment in segments if segments != [""] else ():
        if ANY in segment:
            return Route(text, _methods(methods), tuple(shape), rest=True)
        shape.append(None if ONE in segment else segment)
    return Route(text, _methods(methods), tuple(shape), rest=False)


def routes_of(app: Any, text: str = "", spelled: str = "") -> Iterator[Route]:
    """Every route of an application, below a path; one that cannot be looked into is one route for all below it."""
    inner = app
    for _ in range(100):  # whatever wraps it
        if hasattr(inner, "url_map"):
            return of_flask(inner, text, spelled)
        if hasattr(inner, "asgi_router"):
            return of_litestar(inner, text, spelled)
        if isinstance(getattr(inner, "routes", None), (list, tuple)):
            later = getattr(getattr(inner, "router", inner), "_low_priority_routes", ())
            return of_starlette([*inner.routes, *later], text, spelled)
        inner = getattr(inner, "app", None)
    return iter([route(text + "/**", spelled + "/" + ANY, None)])


def of_starlette(routes: Iterable[Any], text: str = "", spelled: str = "") -> Iterator[Route]:
    """Of Starlette and FastAPI, with what is mounted and what is included."""
    for item in routes:
        included = getattr(item, "effective_candidates", None)  # FastAPI's router in a router
        if included is not None:
            yield from of_starlette([*included(), *item.effective_low_priority_routes()], text, spelled)
            continue
        found = getattr(item, "starlette_route", None) or item
        host, path = getattr(found, "host", None), getattr(found, "path", None)
        if host is not None:
            yield from routes_of(found.app, f"{text}[{host}]", spelled)
        elif (
            getattr(found, "path_regex", None) is None or path is None
        ):  # pages of a front end, and what we do not know
            prefix = getattr(item, "frontend_prefix", "")
            for files in getattr(getattr(item, "original_route", item), "routes", None) or [item]:
                below = (prefix + getattr(files, "path", "")).rstrip("/")
                yield route(f"{text}{below}/**", f"{spelled}{below}/{ANY}", None)
        elif getattr(found, "app", None) is not None and not hasattr(found, "endpoint"):
            yield from routes_of(found.app, text + path, spelled + _starlette_path(found))
        else:
            methods = getattr(found, "methods", None)
            if methods is None and type(found).__name__.endswith("WebSocketRoute"):
                methods = ["WEBSOCKET"]
            yield route(text + path, spelled + _starlette_path(found), methods)


def _starlette_path(item: Any) -> str:
    convertors = item.param_convertors
    return _STARLETTE.sub(lambda name: _kind(getattr(convertors.get(name[1]), "regex", ".*")), item.path)


def of_flask(app: Any, text: str = "", spelled: str = "") -> Iterator[Route]:
    """Of Flask, without the OPTIONS that it answers by itself."""
    for rule in app.url_map.iter_rules():
        if rule.build_only:
            continue
        converters = rule._converters  # noqa: SLF001 - werkzeug has no public word for it
        path = _FLASK.sub(lambda name: ONE if converters[name[1]].part_isolating else ANY, rule.rule)  # noqa: B023
        methods = set(rule.methods or ())
        if getattr(rule, "provide_automatic_options", False):
            methods.discard("OPTIONS")
        place = rule.host or rule.subdomain
        label = f"[{place}]" if place else ""
        yield route(text + label + rule.rule, spelled + path, ["WEBSOCKET"] if rule.websocket else methods or None)


def of_litestar(app: Any, text: str = "", spelled: str = "") -> Iterator[Route]:
    """Of Litestar, with what is mounted, without the OPTIONS that it answers by itself."""
    for item in app.routes:
        path = _LITESTAR.sub(lambda kind: ANY if kind[1] == "path" else ONE, item.path)
        handler = getattr(item, "route_handler", None)
        if hasattr(item, "route_handler_map"):
            own = {method for method, one in item.route_handler_map.items() if one[0].fn.__name__ != "options_handler"}
            yield route(text + item.path, spelled + path, own)
        elif not hasattr(handler, "is_mount"):
            yield route(text + item.path, spelled + path, ["WEBSOCKET"])
        elif handler is not None and handler.is_mount:
            yield from routes_of(handler.fn, (text + item.path).rstrip("/"), (spelled + path).rstrip("/"))
        else:
            yield route(text + item.path, spelled + path, None)


def of_django(patterns: Iterable[Any], text: str = "", spelled: str = "") -> Iterator[Route]:
    """Of a Django resolver's `url_patterns`, with what is included. A view does not say which methods it takes."""
    for item in patterns:
        own = item.pattern
        inside = getattr(item, "url_patterns", None)
        source = own._route if hasattr(own, "_route") else getattr(own, "_regex", "")  # noqa: SLF001
        written = str(source)
        if hasattr(own, "prefix_default_language"):
            written, path = "<language>/", ONE + "/" if own.prefix_default_language else ANY
        elif not isinstance(source, str):
            path = ANY  # translated: another one in each language
        elif hasattr(own, "_route"):
            converters = own.converters
            path = _DJANGO.sub(lambda name: _kind(converters[name[1]].regex), written)  # noqa: B023
        else:
            path = _regex_path(own.regex, whole=inside is None)
        if inside is not None:
            yield from of_django(inside, text + written, spelled + path)
            continue
        view = getattr(item.callback, "view_class", None) or getattr(item.callback, "cls", None)
        names = getattr(view, "http_method_names", None)
        methods = None if names is None else {name.upper() for name in names if hasattr(view, name)} - {"OPTIONS"}
        actions = getattr(item.callback, "actions", None)  # of a view set of REST framework
        yield route(text + written, spelled + path, {name.upper() for name in actions} if actions else methods)


def _regex_path(pattern: re.Pattern[str], *, whole: bool) -> str:
    """What a regular expression of Django's spells; whatever it may match elsewhere, or in another case, is `ANY`."""
    text = pattern.pattern
    # Django searches, but takes the whole path for a view's expression that ends in `$`.
    anchored = text.startswith("^") or (whole and text.endswith("$"))
    if not anchored or "|" in text or pattern.flags & ~re.UNICODE:
        return ANY
    end = next((end for end in ("$", r"\Z") if text.endswith(end) and not text.endswith("\\" + end)), "")
    text = text[text.startswith("^") : len(text) - len(end)]
    out, at, groups = "", 0, list[int]()
    while at < len(text):
        atom = _ATOM.match(text, at)
        repeat = _REPEAT.match(text, atom.end()) if atom else None
        at = (repeat or atom).end() if atom else at
        one = atom[3] if atom else None
        if atom is not None and one is None and not repeat:
            if atom[1]:
                groups.append(len(out))
            elif groups:
                groups.pop()
            continue
        slash = one is None or re.fullmatch(one, "/") is not None
        literal = one if one is not None and len(one) == 1 else one[1] if one and re.fullmatch(r"\\\W", one) else None
        # At the head of a segment it may be all of it, and missing.
        missing = one and repeat and out[-1:] in {"", "/"} and re.fullmatch(one + repeat[0], "")
        if one is None or missing or (slash and (literal is None or repeat)):
            return out[: groups[0] if groups else None] + ANY
        out += literal if literal is not None and not repeat else ONE
    return out if end or not whole else out + ANY


def _kind(regex: str) -> str:
    """`ONE` where no text that a converter's expression matches has a slash in it."""
    at = 0
    while at < len(regex):
        atom = _ATOM.match(regex, at) or _REPEAT.match(regex, at)
        if atom is None or (atom.re is _ATOM and atom[3] and re.fullmatch(atom[3], "/")):
            return ANY
        at = atom.end()
    return ONE


def _methods(methods: Iterable[str] | None) -> frozenset[str] | None:
    if methods is None:
        return None
    given = frozenset(methods)
    return given - {"HEAD"} if "GET" in given else given
