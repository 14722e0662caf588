"""The same generator pointed at SWOOSH, interleaved with etcd in the same minute; prints ratios.

Start the nodes first (they are not started here); name their addresses, leader or not, and their pids
for the CPU account. ``request``, ``outcome`` and ``head_of`` are the only places that know SWOOSH's HTTP
interface: fit them to it (the ones here follow the brief's proposal and are placeholders).

    python swoosh_anchor.py --nodes 127.0.0.1:8101 127.0.0.1:8102 127.0.0.1:8103 --pids 11 12 13 \\
        [--c 1 8 32 128] [--rounds 3] [--no-etcd] [--only own contended]
"""

from __future__ import annotations

import base64
import hashlib
import os
import statistics
import time

import orjson
from cryptography.hazmat.primitives import serialization

import etcd_anchor
from common import Emitter, HttpConn, arguments, calibrate, closed_loop, run, wanted

CLUSTER = os.environ["SWOOSH_CLUSTER"]  # the directory `swoosh init` wrote
with open(os.path.join(CLUSTER, "cluster.json"), "rb") as file:
    CLUSTER_ID = orjson.loads(file.read())["cluster_id"]
KEYS = {}
for role in ("policy", "operator"):
    with open(os.path.join(CLUSTER, "keys", role + ".pem"), "rb") as file:
        KEYS[role] = serialization.load_pem_private_key(file.read(), password=None)
SIGNER_IDS = {role: "hmmm:pubkey:ed25519:" + key.public_key().public_bytes_raw().hex() for role, key in KEYS.items()}
TRANSITION = "POLICY_UPDATED"  # legal in every phase, for ever
INPUTS = {
    "policy_version": "v1",
    "policy": "ucxl://agent:policy@swoosh:anchor/*^/policy.json",
    "quarantines": ["bearer-token"],
}
INPUTS_HASH = (
    "sha256-" + hashlib.sha256(b"swoosh/inputs/v1\n" + orjson.dumps(INPUTS, option=orjson.OPT_SORT_KEYS)).hexdigest()
)
EVIDENCE = ["ucxl://agent:bench@swoosh:anchor/*^/report.json"]


class Client:
    def __init__(self, host, port, project: str, tag: str):
        self.conn, self.project, self.tag, self.n = HttpConn(host, port), project, tag, 0
        self.head, self.step = "", 0

    def close(self):
        self.conn.close()


def proposal(client: Client, transition: str, head: str, inputs: dict, inputs_hash: str, role: str = "policy") -> bytes:
    ms = time.time_ns() // 1_000_000
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}+00:00"
    body = {
        "current_state_hash": head,
        "transition": transition,
        "inputs": inputs,
        "inputs_hash": inputs_hash,
        "signer": SIGNER_IDS[role],
        "idem_key": f"{client.tag}-{client.n}",
        "hlc": f"{stamp}#{client.n}",
        "window_id": "",
        "evidence": EVIDENCE,
        "project": client.project,
    }
    signed = b"swoosh/proposal/v1\n" + orjson.dumps({**body, "cluster_id": CLUSTER_ID}, option=orjson.OPT_SORT_KEYS)
    body["signature"] = base64.urlsafe_b64encode(KEYS[role].sign(signed)).decode().rstrip("=")
    return orjson.dumps(body)


def request(client: Client) -> tuple[str, bytes, str]:
    """Path, body and further header lines of the next proposal."""
    return "/transition", proposal(client, TRANSITION, client.head, INPUTS, INPUTS_HASH), ""


def outcome(status: int, answer: bytes) -> tuple[bool, str]:
    """Committed or conflict, and the head to go on from."""
    body = orjson.loads(answer)
    if status == 200:
        return True, body["state_hash"]
    if status == 400 and body["code"] in ("STALE_STATE", "HLC_REGRESSION", "HLC_TIE"):
        return False, body["state_hash"]
    raise RuntimeError(f"{status} {answer[:300]!r}")


async def head_of(client: Client):
    """Create the project where needed and learn its head."""
    inputs = {"brief": "bench", "repository": "", "planned_roles": []}
    digest = (
        "sha256-"
        + hashlib.sha256(b"swoosh/inputs/v1\n" + orjson.dumps(inputs, option=orjson.OPT_SORT_KEYS)).hexdigest()
    )
    body = proposal(client, "PROJECT_CREATED", "genesis", inputs, digest, "operator")
    status, answer = await client.conn.post("/transition", body)
    client.n += 1
    body = orjson.loads(answer)
    if not body.get("state_hash"):
        raise RuntimeError(f"{status} {answer[:300]!r}")
    client.head = body["state_hash"]


async def submit(client: Client, i: int) -> bool:
    """One transition; True when committed, False on conflict (the head is refreshed then)."""
    client.n += 1
    path, body, headers = request(client)
    won, client.head = outcome(*await client.conn.post(path, body, headers))
    client.step += won
    return won


async def main():
    p = arguments(__doc__)
    p.add_argument("--nodes", nargs="+", required=True, help="host:port; the first should lead")
    p.add_argument("--pids", nargs="*", type=int, default=[])
    p.add_argument("--no-etcd", action="store_true")
    args = p.parse_args()
    emit, run_id = Emitter(args.out), os.urandom(3).hex()
    host, port = args.nodes[0].rsplit(":", 1)
    etcd = None if args.no_etcd else etcd_anchor.Cluster()
    try:
        lead = await etcd.ready() if etcd else None

        async def swoosh_point(kind, r, c):
            clients = [
                Client(
                    host,
                    int(port),
                    f"b{run_id}-{kind}{r}c{c}" + ("" if kind == "contended" else f"-{j}"),
                    f"{run_id}-{kind}{r}c{c}-{j}",
                )
                for j in range(c)
            ]
            for x in clients:
                await head_of(x)
            row = await closed_loop(clients, submit, args.seconds, args.warmup, lambda: args.pids)
            for x in clients:
                x.close()
            return row

        async def etcd_point(kind, r, c):
            key = f"{kind}{r}" if kind == "contended" else None
            clients = [x for j in range(c) for x in etcd.clients(1, lead, f"{kind}{r}c{c}-{j}", key=key)]
            for x in clients[:1] if key else clients:
                await etcd_anchor.submit(x, 0)
            row = await closed_loop(clients, etcd_anchor.submit, args.seconds, args.warmup, etcd.sv.pids)
            for x in clients:
                x.close()
            return row

        points = [("own", c) for c in args.c if wanted(args, "own")] + (
            [("contended", 32)] if wanted(args, "contended") else []
        )
        seen: dict = {}
        for r in range(args.rounds):
            for kind, c in points:
                cal = calibrate()
                ours = await swoosh_point(kind, r, c)
                emit(system="swoosh", durability="fsync majority", kind=kind, round=r, c=c, **ours, cal=cal)
                if etcd:
                    theirs = await etcd_point(kind, r, c)
                    emit(
                        system="etcd 3.4 x3 (gateway)",
                        durability="fsync majority",
                        kind=kind,
                        round=r,
                        c=c,
                        **theirs,
                        cal=cal,
                    )
                    if theirs["ops_s"] and theirs["p99_ms"] and ours["p99_ms"]:
                        seen.setdefault((kind, c), []).append(
                            (
                                ours["ops_s"] / theirs["ops_s"],
                                ours["p50_ms"] / theirs["p50_ms"],
                                ours["p99_ms"] / theirs["p99_ms"],
                            )
                        )
        for (kind, c), rows in seen.items():
            ops, p50, p99 = (round(statistics.median(x), 3) for x in zip(*rows))
            emit(kind="ratio to etcd", of=kind, c=c, ops=ops, p50=p50, p99=p99, runs=len(rows))
    finally:
        if etcd:
            etcd.sv.close()


if __name__ == "__main__":
    run(main())
