"""The rules of the house, as tests.

Each rule reads the source tree and names every offence with its line and what to do instead. They are about things
that no linter knows and that reviews miss: a second place that hashes, a clock read in the pure core, a set whose
order leaks into a hash. A rule that is in your way may be wrong: change it here, in the same change, and say why.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOT_COMMITTED = re.compile(r"\.git|\.venv|\..*_cache|\.hypothesis|__pycache__|.*\.egg-info|build|dist|data|out")
FUNCTION_LINES_MAX = 70  # a screen

FunctionDef = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Source:
    """One Python file: its path from the root of the repository, its text, its syntax tree."""

    path: str
    text: str
    tree: ast.Module


@cache
def sources(*folders: str) -> tuple[Source, ...]:
    """Every Python file below the folders, parsed once."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            found.append(Source(path.relative_to(ROOT).as_posix(), text, ast.parse(text, path)))
    return tuple(found)


def product() -> tuple[Source, ...]:
    return sources("swoosh", "cluster")


def everything() -> tuple[Source, ...]:
    return sources("swoosh", "cluster", "chaos", "tests")


def core() -> Iterator[Source]:
    """The pure core: all of swoosh/ but the SDK, which is there to do I/O."""
    return (source for source in sources("swoosh") if not source.path.startswith("swoosh/client/"))


@cache
def committed() -> tuple[tuple[str, str], ...]:
    """Path and text of every text file that belongs to the repository, the lock file left out."""
    found = []
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        if not path.is_file() or relative.name == "uv.lock" or any(map(NOT_COMMITTED.fullmatch, relative.parts)):
            continue
        try:
            found.append((relative.as_posix(), path.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue  # an image, a recorded log
    return tuple(found)


def demand(offences: Iterable[str], advice: str) -> None:
    """Fail with the advice and the list of offences, if there is any."""
    if found := sorted(set(offences)):
        pytest.fail(f"{advice}\n  " + "\n  ".join(found), pytrace=False)


def dotted(node: ast.expr) -> str:
    """`a.b().c` as text; whatever is not made of names, dots and calls becomes `?`."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            return f"{dotted(value)}.{attribute}"
        case ast.Call(func=function):
            return f"{dotted(function)}()"
        case _:
            return "?"


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports from elsewhere."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case _:
                pass


def uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that a module imports, reaches by attribute, or calls.

    `from os import fsync` and `os.fsync(…)` both show up as `os.fsync`, so a rule need not know how a name came in.
    """
    yield from imported(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute():
                yield node.lineno, dotted(node)
            case ast.Call(func=ast.Name(id=name)):
                yield node.lineno, name
            case _:
                pass


def offences(found: Iterable[Source], names: str) -> Iterator[str]:
    """`path:line: name` for each use of a name that matches, or of something inside it."""
    pattern = re.compile(rf"(?:{names})(?:[.(].*)?")
    for source in found:
        for line, name in uses(source.tree):
            if pattern.fullmatch(name):
                yield f"{source.path}:{line}: {name}"


# --- one place for each thing -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """A thing and its home.

    Attributes:
        names: a regular expression for the names that betray the thing.
        homes: files, or folders ending in a slash, where it may be.
        advice: what to do instead of opening a second place.
    """

    thing: str
    names: str
    homes: tuple[str, ...]
    advice: str


WALL_CLOCK = r"(?:\w+\.)?date(?:time)?\.(?:now|utcnow|today)"
LOOP = r"(?:.*\.)?(?:_?loop|get_(?:running|event)_loop\(\))"
PLACES = (
    Place(
        thing="hashing",
        names="hashlib",
        homes=("swoosh/hashing.py",),
        advice="call swoosh.hashing",
    ),
    Place(
        thing="YAML",
        names="yaml",
        homes=("swoosh/chart.py", "cluster/config.py"),
        advice="let chart.py or config.py read it",
    ),
    Place(
        thing="time",
        names=rf"time|{WALL_CLOCK}",
        homes=("cluster/clock.py", "swoosh/client/"),
        advice="take a Clock; in swoosh/ take the stamp of the entry",
    ),
    Place(
        thing="timers",
        names=rf"asyncio\.(?:sleep|timeout|timeout_at|wait_for)|{LOOP}\.(?:call_later|call_at|time)",
        homes=("cluster/clock.py", "swoosh/client/"),
        advice="use the Clock you were handed: sleep, call_later",
    ),
    Place(
        thing="randomness",
        names=r"random|secrets|uuid|os\.urandom",
        homes=("cluster/entropy.py", "swoosh/client/"),
        advice="take an Entropy",
    ),
    Place(
        thing="RocksDB",
        names="rocksdict",
        homes=("cluster/storage/kv.py",),
        advice="take a KeyValue",
    ),
    Place(
        thing="fsync",
        names=r"os\.(?:fsync|fdatasync|sync)",
        homes=("cluster/storage/",),
        advice="write through cluster/storage",
    ),
    Place(
        thing="PySyncObj",
        names="pysyncobj",
        homes=("cluster/raft/",),
        advice="talk to cluster.raft.driver.Raft",
    ),
    Place(
        thing="environment and configuration files",
        names=r"os\.(?:environ|getenv|putenv|unsetenv)|tomllib|configparser",
        homes=("cluster/config.py",),
        advice="add a setting to cluster/config.py and take it as an argument",
    ),
    Place(
        thing="AGE",
        names="pyrage",
        homes=("cluster/vault.py",),
        advice="take a Vault",
    ),
    Place(
        thing="JWT",
        names=r"jwt\.(?:Py\w+|decode\w*|algorithms|exceptions|api_\w+)",
        homes=("cluster/callers.py",),
        advice="ask callers.who, which judges times by the clock it is handed",
    ),
    Place(
        thing="outbound HTTP",
        names=r"aiohttp\.(?:ClientSession|request)|urllib\.request|http\.client",
        homes=("cluster/egress.py", "swoosh/client/", "cluster/standins/agent.py"),  # a stand-in is a caller, no node
        advice="go through cluster/egress.py, which knows whether the license allows it",
    ),
    Place(
        thing="NATS",
        names="nats",
        homes=("cluster/providers/nats.py",),
        advice="take a Broker, and ask Outside.permit before anything leaves",
    ),
    Place(
        thing="metrics",
        names="prometheus_client",
        homes=("cluster/telemetry/metrics.py",),
        advice="declare it in telemetry/metrics.py",
    ),
    Place(
        thing="locks",
        names=r"(?:threading|asyncio|multiprocessing)\.(?:Lock|RLock|Semaphore|BoundedSemaphore|Condition|Barrier)",
        homes=("cluster/storage/syncer.py",),
        advice="one loop owns the state, so nothing needs a lock; if this one guards none of it, list its file here",
    ),
    Place(
        thing="threads",
        names=r"threading|concurrent|asyncio\.to_thread|.*\.run_in_executor",
        homes=(
            *("cluster/storage/snapshots.py", "cluster/storage/incoming.py", "cluster/storage/syncer.py"),
            "cluster/storage/lines.py",
        ),
        advice="stay on the loop in small slices, or start a process; the simulation cannot replay a thread",
    ),
    Place(
        thing="code made from data",
        names=r"pickle|cPickle|dill|marshal|shelve|eval|exec|compile|__import__|yaml\.(?:\w+_)?load(?:_all)?",
        homes=(),
        advice="decode with msgspec, msgpack, or a loader derived from yaml.SafeLoader",
    ),
)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.thing)
def test_each_thing_has_one_place(place: Place) -> None:
    elsewhere = (source for source in product() if not source.path.startswith(place.homes))
    home = " or ".join(place.homes) or "no file at all"
    demand(offences(elsewhere, place.names), f"{place.thing} belongs in {home}: {place.advice}")


def test_private_names_of_the_consensus_library_stay_at_the_seam() -> None:
    found = (
        f"{source.path}:{node.lineno}: {node.attr}"
        for source in product()
        if source.path not in {"cluster/raft/seams.py", "cluster/raft/replica.py"}
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and node.attr.startswith("_SyncObj__")
    )
    demand(found, "reach PySyncObj's internals in raft/replica.py, and list the name in raft/seams.py, which checks it")


def test_metric_names_are_written_once() -> None:
    found = (
        f"{source.path}:{node.lineno}: {node.value!r}"
        for source in sources("cluster")
        if source.path != "cluster/telemetry/metrics.py"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and re.fullmatch(r"swoosh_[a-z_]+", str(node.value))
    )
    demand(found, "import the metric from cluster/telemetry/metrics.py instead of spelling its name")


def test_statuses_are_chosen_in_one_file() -> None:
    """Elsewhere a handler names an outcome, never a number."""
    handlers = [source for source in sources("cluster/http") if not source.path.endswith("/problems.py")]
    numbers = (
        f"{source.path}:{node.value.lineno}: status={node.value.value!r}"
        for source in handlers
        for node in ast.walk(source.tree)
        if isinstance(node, ast.keyword) and node.arg == "status" and isinstance(node.value, ast.Constant)
    )
    demand(numbers, "let cluster/http/problems.py map the outcome to its status")
    demand(offences(handlers, r"(?:aiohttp\.)?web\.HTTP\w+"), "answer through cluster/http/problems.py, not by raising")


# --- the pure core ----------------------------------------------------------------------------------------------------

WORLD = {
    *("time", "random", "uuid", "secrets"),
    *("os", "io", "pathlib", "tempfile", "shutil", "subprocess", "signal"),
    *("socket", "ssl", "select", "selectors", "urllib", "http", "aiohttp"),
    *("asyncio", "threading", "multiprocessing", "concurrent"),
    *("logging", "structlog", "prometheus_client", "rocksdict", "pysyncobj"),
}


def test_the_core_touches_nothing() -> None:
    imports = (
        f"{source.path}:{line}: {name}"
        for source in core()
        for line, name in imported(source.tree)
        if name.partition(".")[0] in WORLD
    )
    advice = "swoosh/ computes and does nothing else: hand it the value, or do this in cluster/"
    demand(imports, advice)
    demand(offences(core(), rf"open|print|input|{WALL_CLOCK}"), advice)


def test_the_core_encodes_in_one_place() -> None:
    """Two encoders that differ in one space are two hashes."""
    elsewhere = (source for source in core() if source.path != "swoosh/canonical.py")
    demand(offences(elsewhere, r"json\.dumps?|msgspec\.json\.(?:encode|Encoder)|orjson"), "call swoosh.canonical")


def test_the_core_knows_no_floats() -> None:
    """A float has no canonical text, and a sum of floats depends on the order of its terms."""
    found = (
        f"{source.path}:{node.lineno}: {ast.unparse(node)}"
        for source in core()
        for node in ast.walk(source.tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float | complex))
        or (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
        or (isinstance(node, ast.Call) and dotted(node.func) == "float")
    )
    demand(found, "count in whole milliseconds, thousandths or bytes; divide with //")


ORDER_FREE = {"sorted", "set", "frozenset", "len", "any", "all", "min", "max", "sum"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}


def is_set(node: ast.expr, known: set[str]) -> bool:
    """Whether an expression is a set, as far as the text of one module can tell."""
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Name() | ast.Attribute():
            return dotted(node) in known
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in SET_METHODS:
            return is_set(value, known)
        case ast.BinOp(left=left, op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), right=right):
            return is_set(left, known) or is_set(right, known)
        case _:
            return False


def names_of_sets(tree: ast.Module) -> set[str]:
    """Names that a module assigns a set to, or annotates as one."""
    known: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case (
                ast.arg(arg=name, annotation=ast.expr() as kind)
                | ast.AnnAssign(target=ast.Name(id=name), annotation=kind)
            ):
                if re.match(r"(?:frozen)?set\b", ast.unparse(kind)):
                    known.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_set(value, known):
                known.add(name)
            case _:
                pass
    return known


def walked(tree: ast.Module) -> Iterator[ast.expr]:
    """Every expression the order of whose elements can be seen: loops, comprehensions, list(), tuple(), join()."""
    order_free = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and dotted(node.func) in ORDER_FREE
        for argument in node.args
    }
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=iterable):
                yield iterable
            case ast.ListComp(generators=parts) | ast.GeneratorExp(generators=parts) | ast.DictComp(generators=parts):
                if id(node) not in order_free:
                    yield from (part.iter for part in parts)
            case ast.Call(func=ast.Name(id="list" | "tuple" | "iter" | "enumerate"), args=[first, *_]):
                yield first
            case ast.Call(func=ast.Attribute(attr="join"), args=[first]):
                yield first
            case _:
                pass


def test_the_core_never_walks_a_set_unsorted() -> None:
    """The order of a set of strings changes with each start of the interpreter."""
    found = []
    for source in core():
        known = names_of_sets(source.tree)
        found += [
            f"{source.path}:{node.lineno}: {ast.unparse(node)}" for node in walked(source.tree) if is_set(node, known)
        ]
    demand(found, "walk sorted(…) of it, or keep a tuple or a dict")


SDK_KNOWS = re.compile(
    r"swoosh\.(?:client|canonical|signing|hlc|hashing|proposal|facts|principal|outcome|errors|limits)\b"
)


def test_the_sdk_knows_values_only() -> None:
    """A caller's process must not carry the machine, or callers will start to decide for themselves."""
    found = (
        f"{source.path}:{line}: {name}"
        for source in sources("swoosh/client")
        for line, name in imported(source.tree)
        if name.startswith(("swoosh.", "cluster.", "chaos.")) and not SDK_KNOWS.match(name)
    )
    demand(found, "the SDK imports values, the encoder, signing and the clock value; ask the cluster for the rest")


# --- readability ------------------------------------------------------------------------------------------------------


def test_every_module_says_what_it_is() -> None:
    found = (source.path for source in everything() if source.text.strip() and ast.get_docstring(source.tree) is None)
    demand(found, "open with a docstring: what the module is, what it must never do, why it is shaped so")


def body_lines(function: FunctionDef) -> int:
    """Lines from `def` to the last, without the docstring."""
    total = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return total
    docstring = function.body[0]
    return total - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def test_a_function_fits_a_screen() -> None:
    found = (
        f"{source.path}:{node.lineno}: {node.name} has {body_lines(node)} lines"
        for source in everything()
        if not source.path.startswith("chaos/bench/anchors/")  # kept as they are used elsewhere
        for node in ast.walk(source.tree)
        if isinstance(node, FunctionDef) and body_lines(node) > FUNCTION_LINES_MAX
    )
    demand(found, f"at most {FUNCTION_LINES_MAX} lines without the docstring: split it at a seam that has a name")


# --- what must not be committed ---------------------------------------------------------------------------------------


def lines_that_match(pattern: str, *, suffixes: tuple[str, ...] = ("",)) -> Iterator[str]:
    """`path:line: text` over the committed files; this file is left out, because it has to spell what it forbids, and
    what is somebody else's and kept word for word."""
    wanted = re.compile(pattern)
    for path, text in committed():
        if path in ("tests/test_tidy.py", "tests/deploy/compose-spec.json") or not path.endswith(suffixes):
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if wanted.search(line):
                yield f"{path}:{number}: {line.strip()[:100]}"


def test_nothing_is_left_for_later() -> None:
    marks = r"\b(?:TODO|FIXME|XXX|HACK)\b"
    demand(lines_that_match(marks), "do it now, or write an issue and leave no mark in the code")


def test_no_path_of_one_machine() -> None:
    demand(
        lines_that_match(r"(?<![\w.:/-])/(?:work|root|tmp|home/\w+|Users/\w+)/"),
        "this path exists on one machine only: take it from the configuration, or use pytest's tmp_path",
    )


def test_a_text_speaks_to_its_reader() -> None:
    """Whoever runs or reads the product has no use for how a text came to be."""
    asides = r"(?:this|last|previous|next|earlier) session|(?:system|user) prompt|as (?:instructed|prompted)"
    makers = r"language model|sub-?agents?|helper agents?|design pages?|private pages?"
    demand(lines_that_match(rf"(?i)\b(?:{asides}|{makers})\b"), "say what holds and why")


def test_reasons_are_written_out() -> None:
    """A label such as a letter and a number refers to a page the reader does not have."""
    labels = r"(?<![\w/#-])[RHE]\d{1,2}b?(?![\w/.-])"
    found = lines_that_match(labels, suffixes=(".py", ".pyi", ".md", ".yaml", ".toml"))
    demand(found, "write the reason in words")


# --- do these rules bite? ---------------------------------------------------------------------------------------------


def planted(text: str) -> Source:
    return Source("planted.py", text, ast.parse(text))


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        ("hashing", "from hashlib import sha256"),
        ("YAML", "import yaml as y"),
        ("time", "import datetime as dt\nnow = dt.datetime.now()"),
        ("timers", "import asyncio\nasyncio.get_running_loop().call_later(1, print)"),
        ("randomness", "import os\nkey = os.urandom(8)"),
        ("RocksDB", "from rocksdict import Rdict"),
        ("fsync", "from os import fsync"),
        ("PySyncObj", "import pysyncobj.syncobj"),
        ("environment and configuration files", "import os\nhome = os.environ['HOME']"),
        ("outbound HTTP", "import aiohttp\nhttp = aiohttp.ClientSession()"),
        ("metrics", "from prometheus_client import Counter"),
        ("locks", "import asyncio\nlock = asyncio.Lock()"),
        ("threads", "async def f(self): await self.loop.run_in_executor(None, print)"),
        ("code made from data", "value = eval('1')"),
    ],
)
def test_a_second_place_is_noticed(thing: str, text: str) -> None:
    place = next(place for place in PLACES if place.thing == thing)
    assert list(offences([planted(text)], place.names))


@pytest.mark.parametrize(
    ("text", "unsorted"),
    [
        ("for x in {1, 2}: pass", True),
        ("def f(s: set[str]) -> list[str]: return [x for x in s]", True),
        ("s = frozenset('ab') | {'c'}\nt = ','.join(s)", True),
        ("def f(s: frozenset[str]) -> str: return list(s - {'a'})[0]", True),
        ("def f(s: set[str]) -> bool: return any(x for x in s)", False),
        ("def f(s: set[str]) -> list[str]: return sorted(x for x in s)", False),
        ("for x in sorted({1, 2}): pass", False),
    ],
)
def test_an_unsorted_walk_is_noticed(text: str, unsorted: bool) -> None:
    tree = planted(text).tree
    assert any(is_set(node, names_of_sets(tree)) for node in walked(tree)) is unsorted
