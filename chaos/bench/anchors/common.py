"""Shared parts of the anchor benchmarks.

* calibration: what this machine gives in the same minute (sha256 rate, fdatasync rate)
* servers: start, find free ports, account CPU, stop by pid, remove their data
* load: one closed loop per client around ``submit(client, i)``
* HttpConn: a lean keep-alive HTTP/1.1 client (asyncio.Protocol), so that the generator stays
  small next to the servers it shares the cores with

Every measurement is one JSON line on stdout (and appended to --out, when given).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

try:
    import uvloop
except ImportError:  # the loop of the standard library does as well, with more CPU
    uvloop = None

TICK = os.sysconf("SC_CLK_TCK")
STATE = os.urandom(375).hex()[:500]  # 500 bytes of text that does not compress to nothing


# ---------------------------------------------------------------- calibration
def sha_rate(seconds: float = 0.15) -> float:
    """sha256 of 1 KiB per second, one thread."""
    block, n, end = b"x" * 1024, 0, time.perf_counter() + seconds
    t0 = time.perf_counter()
    while time.perf_counter() < end:
        for _ in range(200):
            hashlib.sha256(block).digest()
        n += 200
    return n / (time.perf_counter() - t0)


def fsync_lat(seconds: float = 0.25, size: int = 4096, base: str | None = None) -> list[float]:
    """Latencies of: append ``size`` bytes, fdatasync."""
    fd, path = tempfile.mkstemp(prefix="swoosh-cal-", dir=base)
    lat, block = [], os.urandom(size)
    try:
        end = time.perf_counter() + seconds
        while (t := time.perf_counter()) < end:
            os.write(fd, block)
            os.fdatasync(fd)
            lat.append(time.perf_counter() - t)
    finally:
        os.close(fd)
        os.unlink(path)
    return lat


QUIET = {"foreign": 0.2, "wait": 0.0}  # set by --quiet


def quiet():
    """Wait, within bounds, until nobody else uses much of this machine."""
    end = time.perf_counter() + QUIET["wait"]
    while time.perf_counter() < end:
        t, m, g = time.perf_counter(), machine_busy(), time.process_time()
        time.sleep(0.5)
        if (machine_busy() - m - (time.process_time() - g)) / (time.perf_counter() - t) < QUIET["foreign"]:
            return


def calibrate() -> dict:
    quiet()
    lat = sorted(fsync_lat())
    return {
        "sha1k_s": round(sha_rate()),
        "fsync_s": round(len(lat) / sum(lat)),
        "fsync_p50_ms": round(pct(lat, 50) * 1e3, 3),
        "load1": round(os.getloadavg()[0], 2),
    }


# ---------------------------------------------------------------- statistics
def pct(ordered: list[float], p: float) -> float:
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))]


def spread(values: list[float], digits: int = 3) -> dict:
    v = sorted(values)
    return {
        "n": len(v),
        "min": round(v[0], digits),
        "median": round(statistics.median(v), digits),
        "max": round(v[-1], digits),
    }


def lat_ms(lat: list[float]) -> dict:
    v = sorted(lat)
    if not v:
        return {"p50_ms": None, "p99_ms": None, "max_ms": None}
    return {"p50_ms": round(pct(v, 50) * 1e3, 3), "p99_ms": round(pct(v, 99) * 1e3, 3), "max_ms": round(v[-1] * 1e3, 3)}


class Emitter:
    def __init__(self, out: str | None):
        self.out = open(out, "a") if out else None

    def __call__(self, **row):
        line = json.dumps({"t": time.strftime("%H:%M:%S", time.gmtime()), **row})
        print(line, flush=True)
        if self.out:
            self.out.write(line + "\n")
            self.out.flush()


# ---------------------------------------------------------------- CPU accounting
def cpu_of(pids: list[int]) -> float:
    """CPU seconds (user + system, all threads) of these processes and their reaped children."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(int(fields[k]) for k in (11, 12, 13, 14))
    return total / TICK


def children_of(pid: int) -> list[int]:
    kids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    if int(f.read().rpartition(")")[2].split()[1]) == pid:
                        kids.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return kids


def machine_busy() -> float:
    with open("/proc/stat") as f:
        user, nice, system, idle, iowait, irq, soft, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def disk_flushes() -> int:
    """Cache flushes that the disk of the temporary directory has completed: evidence of fsync, whoever asked for it."""
    dev = os.stat(tempfile.gettempdir()).st_dev
    with open("/proc/diskstats") as f:
        for line in f:
            w = line.split()
            if (int(w[0]), int(w[1])) == (os.major(dev), os.minor(dev)) and len(w) > 18:
                return int(w[18])
    return 0


class CpuWindow:
    """CPU in cores between start and stop: servers, this process, and everyone else; and the disk's flushes."""

    def __init__(self, pids):
        self.pids = pids  # a callable, since servers fork

    def start(self):
        self.watch = list(self.pids())
        self.t, self.s, self.g, self.m = time.perf_counter(), cpu_of(self.watch), time.process_time(), machine_busy()
        self.f = disk_flushes()

    def stop(self) -> dict:
        dt = time.perf_counter() - self.t
        s, g, m = cpu_of(self.watch) - self.s, time.process_time() - self.g, machine_busy() - self.m
        return {
            "cpu_servers": round(s / dt, 2),
            "cpu_gen": round(g / dt, 2),
            "cpu_foreign": round(max(0.0, m - s - g) / dt, 2),
            "flushes_s": round((disk_flushes() - self.f) / dt),
        }


# ---------------------------------------------------------------- servers
def free_ports(n: int) -> list[int]:
    socks = [socket.socket() for _ in range(n)]
    for s in socks:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


class Servers:
    """Processes started here, ended by pid, with one temporary directory for all their data."""

    def __init__(self, name: str):
        self.dir = tempfile.mkdtemp(prefix=f"swoosh-{name}-")
        self.procs: dict[str, subprocess.Popen] = {}
        self.cmds: dict[str, tuple] = {}

    def start(self, key: str, cmd: list[str], **kw):
        self.cmds[key] = (cmd, kw)
        with open(os.path.join(self.dir, f"{key}.log"), "ab") as log:
            self.procs[key] = subprocess.Popen(cmd, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **kw)

    def restart(self, key: str):
        cmd, kw = self.cmds[key]
        self.start(key, cmd, **kw)

    def kill(self, key: str, sig=signal.SIGKILL):
        p = self.procs[key]
        if p.poll() is None:
            p.send_signal(sig)
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()

    def pids(self) -> list[int]:
        return [p.pid for p in self.procs.values() if p.poll() is None]

    def log(self, key: str) -> str:
        with open(os.path.join(self.dir, f"{key}.log"), errors="replace") as f:
            return f.read()[-2000:]

    def close(self):
        for key in self.procs:
            self.kill(key, signal.SIGTERM)
        shutil.rmtree(self.dir, ignore_errors=True)


def package_file(package: str, suffix: str) -> str:
    """Path of an installed Debian package's file, by the end of its name."""
    listing = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True).stdout.split("\n")
    found = [x for x in listing if x.endswith(suffix)]
    if not found:
        raise SystemExit(f"{package} is not installed (no {suffix})")
    return found[0]


async def until(probe, timeout: float = 30.0, pause: float = 0.02):
    """Call ``probe()`` until it answers something true; exceptions count as not yet."""
    end, last = time.perf_counter() + timeout, None
    while time.perf_counter() < end:
        try:
            answer = await probe()
            if answer:
                return answer
        except Exception as e:  # a server that is still starting fails in many ways
            last = e
        await asyncio.sleep(pause)
    raise TimeoutError(f"not ready after {timeout}s: {last!r}")


# ---------------------------------------------------------------- load
async def closed_loop(clients: list, submit, seconds: float, warmup: float, pids) -> dict:
    """Each client in its own loop: ``await submit(client, i)`` -> True committed, False conflict."""
    stats = {"ok": 0, "conflict": 0, "error": 0}
    lat: list[float] = []
    phase = {"on": False, "stop": False}
    clock = time.perf_counter

    async def one(client):
        i = 0
        while not phase["stop"]:
            t = clock()
            try:
                won = await submit(client, i)
            except (OSError, asyncio.TimeoutError, RuntimeError) as e:
                if phase["on"]:
                    stats["error"] += 1
                    stats["last_error"] = repr(e)[:120]
                await asyncio.sleep(0.01)
                continue
            finally:
                i += 1
            if phase["on"]:
                if won:
                    stats["ok"] += 1
                    lat.append(clock() - t)
                else:
                    stats["conflict"] += 1

    tasks = [asyncio.ensure_future(one(c)) for c in clients]
    await asyncio.sleep(warmup)
    cpu = CpuWindow(pids)
    cpu.start()
    phase["on"], t0 = True, clock()
    await asyncio.sleep(seconds)
    phase["on"], dt, used = False, clock() - t0, cpu.stop()
    phase["stop"] = True
    await asyncio.wait(tasks, timeout=20)
    tries = stats["ok"] + stats["conflict"]
    row = {
        "ops_s": round(stats["ok"] / dt, 1),
        **lat_ms(lat),
        **used,
        "errors": stats["error"],
        "srv_cpu_us_per_op": round(used["cpu_servers"] * dt / max(1, stats["ok"]) * 1e6, 1),
    }
    if stats["conflict"]:
        row["success_rate"] = round(stats["ok"] / tries, 4)
        row["tries_s"] = round(tries / dt, 1)
    if "last_error" in stats:
        row["last_error"] = stats["last_error"]
    return row


# ---------------------------------------------------------------- lean HTTP/1.1
class HttpConn(asyncio.Protocol):
    """One keep-alive connection, one request at a time, whole body answered."""

    def __init__(self, host: str, port: int):
        self.host, self.port = host, port
        self.transport, self.waiter, self.buf = None, None, b""

    async def connect(self):
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self, self.host, self.port)
        return self

    def connection_made(self, transport):
        self.transport, self.buf = transport, b""

    def connection_lost(self, exc):
        self.transport = None
        if self.waiter and not self.waiter.done():
            self.waiter.set_exception(ConnectionResetError("connection lost"))

    def close(self):
        if self.transport:
            self.transport.abort()
            self.transport = None

    async def post(self, path: str, body: bytes, headers: str = "", timeout: float | None = None):
        if self.transport is None:
            await asyncio.wait_for(self.connect(), timeout or 5)
        self.waiter = asyncio.get_running_loop().create_future()
        self.buf = b""
        self.transport.write(
            f"POST {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nContent-Type: application/json\r\n"
            f"{headers}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        if timeout is None:
            return await self.waiter
        try:
            return await asyncio.wait_for(self.waiter, timeout)
        except asyncio.TimeoutError:
            self.close()
            raise

    def data_received(self, data: bytes):
        self.buf = buf = self.buf + data if self.buf else data
        head_end = buf.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head, start = buf[:head_end].lower(), head_end + 4
        at = head.find(b"content-length:")
        if at >= 0:
            eol = head.find(b"\r\n", at)
            size = int(head[at + 15 : eol if eol > 0 else None])
            if len(buf) < start + size:
                return
            body = buf[start : start + size]
        else:  # chunked
            if not buf.endswith(b"0\r\n\r\n"):
                return
            parts, pos = [], start
            while True:
                eol = buf.find(b"\r\n", pos)
                size = int(buf[pos:eol].split(b";")[0], 16)
                if size == 0:
                    break
                parts.append(buf[eol + 2 : eol + 2 + size])
                pos = eol + 4 + size
            body = b"".join(parts)
        waiter, self.waiter = self.waiter, None
        if waiter and not waiter.done():
            waiter.set_result((int(buf[9:12]), body))


# ---------------------------------------------------------------- the command line
def arguments(doc: str, concurrency=(1, 8, 32, 128)) -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=doc)
    p.add_argument("--c", type=int, nargs="*", default=list(concurrency), help="numbers of clients")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=4.0, help="measured seconds per point")
    p.add_argument("--warmup", type=float, default=1.0)
    p.add_argument("--out", help="append the JSON lines to this file too")
    p.add_argument("--only", nargs="*", help="measure only these kinds")
    p.add_argument(
        "--quiet", type=float, default=0, help="wait up to so many seconds before a point for an idle machine"
    )
    parse = p.parse_args

    def parse_args(*a, **kw):
        args = parse(*a, **kw)
        QUIET["wait"] = args.quiet
        return args

    p.parse_args = parse_args
    return p


def wanted(args, kind: str) -> bool:
    return not args.only or kind in args.only


def run(coro):
    if uvloop:
        uvloop.install()

    async def main():  # SIGTERM and SIGINT cancel, so that every ``finally`` runs and no server stays behind
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(coro)
        for sig in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sig, task.cancel)
        await task

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        sys.exit(130)
