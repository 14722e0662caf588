"""etcd, 3 members on loopback, default durability (WAL fsync before acknowledgement).

One operation is the nearest equivalent of a transition: a txn that compares the mod_revision of
the state key with the known one and the idempotency key with absent, then puts state (500 B),
idempotency key (64 B) and WAL record (600 B). Spoken over the JSON gateway (POST /v3/kv/txn) to the leader,
so that the generator is the one that measures SWOOSH; kind "native" is the same txn through etcd's own Go client
(only where Debian's golang-go and golang-etcd-server-dev are installed), etcd's best case.

    python etcd_anchor.py [--c 1 8 32 128] [--rounds 3] [--only own native batch contended spread read failover restart]
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from common import (
    STATE,
    CpuWindow,
    Emitter,
    HttpConn,
    Servers,
    arguments,
    calibrate,
    closed_loop,
    free_ports,
    package_file,
    run,
    spread,
    until,
    wanted,
)


def b64(s: str | bytes) -> str:
    return base64.b64encode(s.encode() if isinstance(s, str) else s).decode()


V_STATE, V_IDEM, V_WAL = b64(STATE), b64("i" * 64), b64(STATE + "w" * 100)


def txn_body(key: str, idem: str, wal: str, rev: int) -> bytes:
    k, i, w = b64(key), b64(idem), b64(wal)
    return (
        f'{{"compare":[{{"target":"MOD","result":"EQUAL","key":"{k}","mod_revision":"{rev}"}},'
        f'{{"target":"CREATE","result":"EQUAL","key":"{i}","create_revision":"0"}}],'
        f'"success":[{{"request_put":{{"key":"{k}","value":"{V_STATE}"}}}},'
        f'{{"request_put":{{"key":"{i}","value":"{V_IDEM}"}}}},'
        f'{{"request_put":{{"key":"{w}","value":"{V_WAL}"}}}}],'
        f'"failure":[{{"request_range":{{"key":"{k}"}}}}]}}'
    ).encode()


class Client:
    def __init__(self, ports, key, tag):
        self.conns = [HttpConn("127.0.0.1", p) for p in ports]
        self.key, self.tag, self.rev, self.n = key, tag, 0, 0
        self.read = b'{"key":"%s"}' % b64(key).encode()
        self.read_serial = b'{"key":"%s","serializable":true}' % b64(key).encode()

    def close(self):
        for c in self.conns:
            c.close()


async def submit(client: Client, i: int, endpoint: int = 0, timeout: float | None = None) -> bool:
    """One transition; True when committed, False on conflict (the head is refreshed then)."""
    client.n += 1
    ident = f"{client.tag}/{client.n}"
    status, body = await client.conns[endpoint].post(
        "/v3/kv/txn", txn_body(client.key, "idem/" + ident, "wal/" + ident, client.rev), timeout=timeout
    )
    if status != 200:
        raise RuntimeError(f"{status} {body[:80]!r}")
    if b'"succeeded":true' in body:
        at = body.index(b'"revision":"') + 12
        client.rev = int(body[at : body.index(b'"', at)])
        return True
    kvs = json.loads(body)["responses"][0]["response_range"].get("kvs")
    client.rev = int(kvs[0]["mod_revision"]) if kvs else 0
    return False


BATCH = 42  # transitions in one txn: etcd allows 128 operations in it by default


class BatchClient:
    """42 machines advanced by one txn: all or nothing, which a batch of independent proposals is not."""

    def __init__(self, ports, tag):
        self.conn, self.tag, self.rev, self.n = HttpConn("127.0.0.1", ports[0]), tag, 0, 0

    def close(self):
        self.conn.close()


async def submit_batch(client: BatchClient, i: int) -> bool:
    client.n += 1
    compare, puts = [], []
    for m in range(BATCH):
        k, ident = b64(f"state/{client.tag}/{m}"), f"{client.tag}/{m}/{client.n}"
        idem = b64("idem/" + ident)
        compare += [
            f'{{"target":"MOD","result":"EQUAL","key":"{k}","mod_revision":"{client.rev}"}}',
            f'{{"target":"CREATE","result":"EQUAL","key":"{idem}","create_revision":"0"}}',
        ]
        puts += [
            f'{{"request_put":{{"key":"{k}","value":"{V_STATE}"}}}}',
            f'{{"request_put":{{"key":"{idem}","value":"{V_IDEM}"}}}}',
            f'{{"request_put":{{"key":"{b64("wal/" + ident)}","value":"{V_WAL}"}}}}',
        ]
    status, body = await client.conn.post(
        "/v3/kv/txn", f'{{"compare":[{",".join(compare)}],"success":[{",".join(puts)}]}}'.encode()
    )
    if status != 200 or b'"succeeded":true' not in body:
        raise RuntimeError(f"{status} {body[:120]!r}")
    client.rev = int(json.loads(body)["header"]["revision"])
    return True


async def read(client: Client, i: int) -> bool:
    status, _ = await client.conns[0].post("/v3/kv/range", client.read)
    return status == 200


async def read_serializable(client: Client, i: int) -> bool:
    status, _ = await client.conns[0].post("/v3/kv/range", client.read_serial)
    return status == 200


class Cluster:
    def __init__(self, n=3):
        self.sv, self.n = Servers("etcd"), n
        ports = free_ports(2 * n)
        self.ports, peers = ports[:n], ports[n:]
        ring = ",".join(f"m{k}=http://127.0.0.1:{peers[k]}" for k in range(n))
        for k in range(n):
            self.sv.start(
                f"m{k}",
                [
                    "etcd",
                    "--name",
                    f"m{k}",
                    "--data-dir",
                    os.path.join(self.sv.dir, f"m{k}"),
                    "--listen-client-urls",
                    f"http://127.0.0.1:{self.ports[k]}",
                    "--advertise-client-urls",
                    f"http://127.0.0.1:{self.ports[k]}",
                    "--listen-peer-urls",
                    f"http://127.0.0.1:{peers[k]}",
                    "--initial-advertise-peer-urls",
                    f"http://127.0.0.1:{peers[k]}",
                    "--initial-cluster",
                    ring,
                    "--initial-cluster-state",
                    "new",
                    "--logger",
                    "zap",
                    "--log-level",
                    "error",
                ],
            )

    async def status(self, k):
        conn = HttpConn("127.0.0.1", self.ports[k])
        try:
            _, body = await conn.post("/v3/maintenance/status", b"{}", timeout=1)
            return json.loads(body)
        finally:
            conn.close()

    async def leader(self) -> int:
        """Index of the member that leads, once every live member answers and one agrees that it leads."""

        async def probe():
            for k in range(self.n):
                if self.sv.procs[f"m{k}"].poll() is None:
                    s = await self.status(k)
                    if s.get("leader", "0") != "0" and s["leader"] == s["header"]["member_id"]:
                        return k + 1

        return (await until(probe)) - 1

    async def ready(self) -> int:
        async def all_up():
            return all([(await self.status(k)).get("leader", "0") != "0" for k in range(self.n)])

        await until(all_up)
        return await self.leader()

    def clients(self, count, first, tag, key=None):
        order = [self.ports[(first + j) % self.n] for j in range(self.n)]
        return [Client(order, key or f"state/{tag}/{i}", f"{tag}/{i}") for i in range(count)]


async def prepare(clients):
    for c in clients:
        await submit(c, 0)


def native_build() -> str | None:
    """Path of the Go generator (built once, kept in the temporary directory), or None where it cannot be built."""
    if not shutil.which("go"):
        return None
    try:
        gopath = package_file("golang-etcd-server-dev", "/clientv3/client.go").partition("/src/")[0]
    except SystemExit:
        return None
    src = os.path.join(os.path.dirname(os.path.abspath(__file__)), "etcd_native.go")
    with open(src, "rb") as f:
        out = os.path.join(tempfile.gettempdir(), f"etcd-native-{hashlib.sha256(f.read()).hexdigest()[:12]}")
    if not os.path.exists(out):
        with tempfile.TemporaryDirectory(prefix="swoosh-go-") as cache:
            env = {**os.environ, "GO111MODULE": "off", "GOPATH": gopath, "GOFLAGS": "", "GOCACHE": cache}
            if subprocess.run(["go", "build", "-o", out, src], env=env).returncode:
                return None
    return out


async def native_point(program, endpoint, c, tag, args, pids) -> dict:
    cpu = CpuWindow(pids)
    proc = await asyncio.create_subprocess_exec(
        program,
        "-endpoint",
        endpoint,
        "-c",
        str(c),
        "-tag",
        tag,
        "-seconds",
        str(args.seconds),
        "-warmup",
        str(args.warmup),
        stdout=subprocess.PIPE,
    )
    await asyncio.sleep(args.warmup)
    cpu.start()
    await asyncio.sleep(args.seconds)
    used = cpu.stop()
    row = {k: round(v, 3) for k, v in json.loads((await proc.communicate())[0]).items()}
    return {
        **row,
        "cpu_servers": used["cpu_servers"],
        "cpu_foreign": round(max(0, used["cpu_foreign"] - row["cpu_gen"]), 2),
        "srv_cpu_us_per_op": round(used["cpu_servers"] / row["ops_s"] * 1e6, 1),
        "flushes_s": used["flushes_s"],
    }


async def failover(cluster, runs):
    """kill -9 the leader; time until a client that retries across endpoints commits again."""
    times = []
    for r in range(runs):
        lead = await cluster.ready()
        await asyncio.sleep(0.5)  # let the restarted member catch up
        client = cluster.clients(1, lead, f"fo{r}")[0]
        for i in range(20):
            await submit(client, i)
        t0 = time.perf_counter()
        cluster.sv.kill(f"m{lead}", signal.SIGKILL)
        k, i = 1, 0
        while True:
            i += 1
            try:
                if await submit(client, i, endpoint=k, timeout=0.3):
                    break
            except (OSError, asyncio.TimeoutError, RuntimeError):
                k = k % (cluster.n - 1) + 1  # the other survivor
                await asyncio.sleep(0.01)
        times.append(time.perf_counter() - t0)
        client.close()
        cluster.sv.restart(f"m{lead}")
    return spread(times)


async def restart(cluster, keys=100_000, per_txn=120):
    """Fill 100k keys of 500 B; then restart all members (kill -9) and one follower."""
    lead = await cluster.ready()
    conn = HttpConn("127.0.0.1", cluster.ports[lead])
    t0 = time.perf_counter()
    for base in range(0, keys, per_txn):
        puts = ",".join(
            f'{{"request_put":{{"key":"{b64(f"fill/{k}")}","value":"{V_STATE}"}}}}'
            for k in range(base, min(keys, base + per_txn))
        )
        status, body = await conn.post("/v3/kv/txn", f'{{"success":[{puts}]}}'.encode())
        assert status == 200, body[:200]
    fill = time.perf_counter() - t0
    conn.close()

    async def reads(k):
        c = HttpConn("127.0.0.1", cluster.ports[k])
        try:
            status, body = await c.post("/v3/kv/range", b'{"key":"%s"}' % b64(f"fill/{keys - 1}").encode(), timeout=1)
            return status == 200 and b'"kvs"' in body
        finally:
            c.close()

    follower = (lead + 1) % cluster.n
    cluster.sv.kill(f"m{follower}")
    t0 = time.perf_counter()
    cluster.sv.restart(f"m{follower}")
    await until(lambda: reads(follower), 120)
    one = time.perf_counter() - t0
    for k in range(cluster.n):
        cluster.sv.kill(f"m{k}")
    t0 = time.perf_counter()
    for k in range(cluster.n):
        cluster.sv.restart(f"m{k}")
    await until(lambda: reads(lead), 120)
    return {
        "keys": keys,
        "fill_keys_s": round(keys / fill),
        "follower_ready_s": round(one, 3),
        "all_ready_s": round(time.perf_counter() - t0, 3),
    }


async def main():
    p = arguments(__doc__)
    p.add_argument("--failovers", type=int, default=10)
    args = p.parse_args()
    emit0 = Emitter(args.out)
    cluster = Cluster()
    try:
        lead = await cluster.ready()

        def emit(**row):
            emit0(system="etcd 3.4 x3 (gateway)", durability="fsync majority", **row)

        async def point(kind, r, c, clients, fn=submit):
            cal = calibrate()
            row = await closed_loop(clients, fn, args.seconds, args.warmup, cluster.sv.pids)
            emit(kind=kind, round=r, c=c, **row, cal=cal)
            for x in clients:
                x.close()

        program = native_build() if wanted(args, "native") else None
        for r in range(args.rounds):
            for c in args.c:
                if wanted(args, "own"):
                    clients = cluster.clients(c, lead, f"own{r}c{c}")
                    await prepare(clients)
                    await point("own", r, c, clients)
                if program:
                    cal = calibrate()
                    row = await native_point(
                        program, f"127.0.0.1:{cluster.ports[lead]}", c, f"go{r}c{c}", args, cluster.sv.pids
                    )
                    emit0(
                        system="etcd 3.4 x3 (gRPC, Go client)",
                        durability="fsync majority",
                        kind="own",
                        round=r,
                        c=c,
                        **row,
                        cal=cal,
                    )
            for c in (1, 8):
                if wanted(args, "batch"):
                    cal, clients = calibrate(), [BatchClient([cluster.ports[lead]], f"b{r}c{c}-{j}") for j in range(c)]
                    row = await closed_loop(clients, submit_batch, args.seconds, args.warmup, cluster.sv.pids)
                    row["ops_s"], row["srv_cpu_us_per_op"] = (
                        round(row["ops_s"] * BATCH, 1),
                        round(row["srv_cpu_us_per_op"] / BATCH, 1),
                    )
                    emit(kind=f"own, {BATCH} in one txn", round=r, c=c, **row, cal=cal)
                    for x in clients:
                        x.close()
            if wanted(args, "contended"):
                await point(
                    "contended",
                    r,
                    32,
                    [x for j in range(32) for x in cluster.clients(1, lead, f"one{r}-{j}", key=f"one{r}")],
                )
            if wanted(args, "spread"):  # clients spread over the members instead of all at the leader
                clients = [x for j in range(32) for x in cluster.clients(1, j, f"sp{r}-{j}")]
                await prepare(clients)
                await point("spread", r, 32, clients)
            if wanted(args, "read"):
                for name, fn in (("read linearizable", read), ("read serializable", read_serializable)):
                    clients = cluster.clients(32, lead, f"rd{r}")
                    for x in clients:
                        await submit(x, 0)
                    await point(name, r, 32, clients, fn)
        if wanted(args, "failover"):
            cal = calibrate()
            emit(kind="failover", seconds=await failover(cluster, args.failovers), cal=cal)
        if wanted(args, "restart"):
            cal = calibrate()
            emit(kind="restart", **await restart(cluster), cal=cal)
    finally:
        cluster.sv.close()


if __name__ == "__main__":
    run(main())
