"""What comes from HMMM: `POST /hmmm/messages`, and `GET /council/votes`, what the leader has gathered of it.

A node speaks no libp2p: a bridge hands in each message as the JSON it travelled in. A vote goes to the leader's list, a
proposal takes the way of `POST /transition`, and whatever else agents tell each other is none of our business, which is
said and is no error. A message may be handed in any number of times, at any node.
"""

from __future__ import annotations

from aiohttp import web

from cluster.http import gate, problems, transition
from cluster.http.request import NODE, about, deadline, project_of, read_body
from cluster.providers import hmmm
from cluster.providers.hmmm import Tally
from swoosh import canonical, limits
from swoosh.proposal import DEFAULT_PROJECT
from swoosh.quorum import Vote


async def post_message(request: web.Request) -> web.Response:
    """One HMMM message."""
    document = canonical.parse(await read_body(request, limits.BODY_BYTES_MAX, problems.JSON))
    found = hmmm.read(document)
    if found is None:
        reason = f"only {hmmm.VOTE} and {hmmm.PROPOSAL} change anything here"
        return problems.ok({"success": True, "type": document["type"], "became": "ignored", "reason": reason})
    if isinstance(found, Vote):
        return await _vote(request, found)
    about(request, found.get("project", DEFAULT_PROJECT))
    admitted = await gate.admit(request, request.app[NODE].admission.proposal, [found])
    [answer] = await transition.submit(request, admitted)
    return problems.respond(answer)


async def _vote(request: web.Request, vote: Vote) -> web.Response:
    node = request.app[NODE]
    about(request, vote.project)
    polled = await node.poll(vote.project, vote, deadline(request))
    if not isinstance(polled, Tally):
        return problems.respond(transition.with_head(node, polled))
    return problems.ok(
        {
            "success": True,
            "type": hmmm.VOTE,
            "became": polled.became,
            "project": polled.project,
            "election": vote.election,
            "vote": vote.vote,
            "votes": sum(each.vote == vote.vote for each in polled.votes),
            "threshold": polled.threshold,
        }
    )


async def get_votes(request: web.Request) -> web.Response:
    """The votes gathered on a project's council, each as it was handed in. They are not part of the state."""
    node = request.app[NODE]
    polled = await node.poll(project_of(request), None, deadline(request))
    if not isinstance(polled, Tally):
        return problems.respond(transition.with_head(node, polled))
    return problems.ok(
        {
            "project": polled.project,
            "election": polled.election,
            "threshold": polled.threshold,
            "electorate": polled.electorate,
            "votes": polled.votes,
            "node": node.config.node_id,
            "leader": node.raft.leader,
        }
    )
