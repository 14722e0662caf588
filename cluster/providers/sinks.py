"""Sinks: where the records of an outbox go. A file of JSON lines, or an address that takes one record per request.

A sink says of each record whether it is there, and where it is not, whose doing that is: the record's, the license's,
or the sink's own. It never retries and never sleeps: the outbox does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import quote

from cluster.egress import Blocked, Call, Outside, Unreachable
from cluster.providers.outbox import Held, Outgoing, Taken, Why, on_behalf_of
from cluster.providers.templates import Template
from cluster.storage.lines import Lines

IN_FLIGHT = 8
"""Requests at a time; each of another project, since a project's records go one after the other."""
TIMEOUT_SECONDS = 10.0
ANSWER_CHARS = 200
OF_THE_SINK = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
"""Refusals that speak of the way there, not of the record."""


class JsonLines:
    """One JSON object per line, in a file of the node that leads."""

    def __init__(self, where: str, lines: Lines, template: Template) -> None:
        self.where, self._lines, self._template = where, lines, template

    async def take(self, records: Sequence[Outgoing]) -> Taken:
        """As `Sink.take`: all of them with one sync, or none."""
        rendered = [self._template.render(record.document, record.delivery) + b"\n" for record in records]
        try:
            await self._lines.append(b"".join(rendered))
        except OSError as error:
            return Taken(trouble=f"{self.where}: {error}")
        return Taken(delivered=list(records))


class Http:
    """One request per record. ``{project}`` and ``{id}`` in the URL are filled in."""

    def __init__(
        self, system: str, outside: Outside, template: Template, *, url: str, method: str, headers: Mapping[str, str]
    ) -> None:
        self.where = url
        self._system, self._outside, self._template = system, outside, template
        self._method, self._headers = method, {"Content-Type": "application/json", **headers}

    async def take(self, records: Sequence[Outgoing]) -> Taken:
        """As `Sink.take`."""
        runs: dict[str, list[Outgoing]] = {}
        for record in records:
            runs.setdefault(record.project, []).append(record)
        taken, waiting = Taken(), list(runs.values())
        await asyncio.gather(*(self._send_runs(waiting[lane::IN_FLIGHT], taken) for lane in range(IN_FLIGHT)))
        return taken

    async def _send_runs(self, runs: Sequence[Sequence[Outgoing]], taken: Taken) -> None:
        for run in runs:
            for record in run:
                if taken.trouble is not None:
                    return
                await self._send(record, taken)
                if record.project in taken.held:
                    break

    async def _send(self, record: Outgoing, taken: Taken) -> None:
        try:
            reply = await self._outside.request(self._call(record))
        except Blocked as error:
            taken.held[record.project] = Held(record.seq, Why.BLOCKED, str(error))
            return
        except Unreachable as error:
            taken.trouble = str(error)
            return
        status = reply.status
        said = f"{status} {reply.body[:ANSWER_CHARS].decode(errors='replace')}".strip()
        if 200 <= status < 300 or status == HTTPStatus.CONFLICT:  # it has this id already
            taken.delivered.append(record)
        elif 400 <= status < 500 and status not in OF_THE_SINK:
            taken.held[record.project] = Held(record.seq, Why.REFUSED, said)
        else:
            taken.trouble = f"{self.where} answered {said}"

    def _call(self, record: Outgoing) -> Call:
        return Call(
            system=self._system,
            method=self._method,
            url=self.where.replace("{project}", quote(record.project)).replace("{id}", quote(record.id)),
            body=self._template.render(record.document, record.delivery),
            headers={**self._headers, "Idempotency-Key": record.id},
            project=on_behalf_of(record.project),
            timeout=TIMEOUT_SECONDS,
        )
