"""The part of PySyncObj 0.3.17 that SWOOSH touches, private names included.

The library ships no types. Names of the form ``_SyncObj__x`` are its private attributes; the one place that may rely on
them checks at import that they exist.
"""

import random as random
from collections.abc import Callable, Iterable
from typing import Any

from .config import FAIL_REASON as FAIL_REASON
from .config import SERIALIZER_STATE as SERIALIZER_STATE
from .config import SyncObjConf as SyncObjConf
from .fast_queue import FastQueue
from .journal import Entry, Journal
from .node import Node as Node
from .poller import Poller
from .serializer import Serializer as Serializer
from .transport import Message
from .transport import Transport as Transport
from .transport import TransportNotReadyError as TransportNotReadyError

Callback = Callable[[Any, int], object]  # result, FAIL_REASON

PIPE_NOTIFIER_ENABLED: bool
VERSION: str
createJournal: Callable[[str | None], Journal]
createPoller: Callable[[str], Poller]
monotonicTime: Callable[[], float]

class _RAFT_STATE:
    FOLLOWER: int
    CANDIDATE: int
    LEADER: int

class _COMMAND_TYPE:
    REGULAR: int
    NO_OP: int
    MEMBERSHIP: int
    VERSION: int

class SyncObjException(Exception):
    errorCode: str

class SyncObj:
    def __init__(
        self,
        selfNode: Node | str | None,
        otherNodes: Iterable[Node | str],
        conf: SyncObjConf | None = None,
        consumers: list[Any] | None = None,
        nodeClass: type[Node] = ...,
        transport: Transport | None = None,
        transportClass: type[Transport] = ...,
    ) -> None: ...
    def destroy(self) -> None: ...
    def doTick(self, timeToWait: float = 0.0) -> None: ...
    def transferLeadership(self, node: Node | str | None = None, callback: Callback | None = None) -> None: ...
    def isNodeConnected(self, node: Node) -> bool: ...
    def getStatus(self) -> dict[str, Any]: ...
    def isReady(self) -> bool: ...
    @property
    def selfNode(self) -> Node: ...
    @property
    def otherNodes(self) -> set[Node]: ...
    @property
    def raftLastApplied(self) -> int: ...
    @property
    def raftCommitIndex(self) -> int: ...
    @property
    def raftCurrentTerm(self) -> int: ...
    @property
    def hasQuorum(self) -> bool: ...
    @property
    def conf(self) -> SyncObjConf: ...
    def _isLeader(self) -> bool: ...
    def _getLeader(self) -> Node | None: ...
    def _getTerm(self) -> int: ...
    def _getRaftLogSize(self) -> int: ...
    def _onTick(self, timeToWait: float = 0.0) -> None: ...
    def _applyCommand(self, command: bytes, callback: Callback | None, commandType: int | None = None) -> None: ...
    def _checkCommandsToApply(self) -> None: ...
    def _doDestroy(self) -> None: ...

    _poller: Poller
    _SyncObj__changeClusterIDx: int | None
    _SyncObj__commandsQueue: FastQueue
    _SyncObj__commandsWaitingCommit: dict[int, list[tuple[int, Callback]]]
    _SyncObj__commandsWaitingReply: dict[int, Callback]
    _SyncObj__conf: SyncObjConf
    _SyncObj__connectedNodes: set[Node]
    _SyncObj__forceLogCompaction: bool
    _SyncObj__lastResponseTime: dict[Node, float]
    _SyncObj__leaderCommitIndex: int | None
    _SyncObj__needLoadDumpFile: bool
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__noopIDx: int | None
    _SyncObj__numOneSecondDumps: int
    _SyncObj__onReadyCalled: bool
    _SyncObj__otherNodes: set[Node]
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftLastApplied: int
    _SyncObj__raftLeader: Node | None
    _SyncObj__raftLog: Journal
    _SyncObj__raftMatchIndex: dict[Node, int]
    _SyncObj__raftNextIndex: dict[Node, int]
    _SyncObj__raftState: int
    _SyncObj__recvTransmission: Any
    _SyncObj__selfNode: Node | None
    _SyncObj__serializer: Any
    _SyncObj__startTime: float
    _SyncObj__transferInProgress: bool
    _SyncObj__transport: Transport
    _SyncObj__votedForNodeId: str | None
    _SyncObj__votesCount: int
    def _SyncObj__applyLogEntries(self) -> bool: ...
    def _SyncObj__connectedToAnyone(self) -> bool: ...
    def _SyncObj__deleteEntriesFrom(self, fromIDx: int) -> None: ...
    def _SyncObj__deleteEntriesTo(self, toIDx: int) -> None: ...
    def _SyncObj__doApplyCommand(self, command: bytes) -> Any: ...
    def _SyncObj__generateRaftTimeout(self) -> float: ...
    def _SyncObj__getCurrentLogIndex(self) -> int: ...
    def _SyncObj__getCurrentLogTerm(self) -> int: ...
    def _SyncObj__getEntries(
        self, fromIDx: int, count: int | None = None, maxSizeBytes: int | None = None
    ) -> list[Entry]: ...
    def _SyncObj__onBecomeLeader(self) -> None: ...
    def _SyncObj__onLeaderChanged(self) -> None: ...
    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None: ...
    def _SyncObj__onNodeConnected(self, node: Node) -> None: ...
    def _SyncObj__onNodeDisconnected(self, node: Node) -> None: ...
    def _SyncObj__sendAppendEntries(self) -> None: ...
    def _SyncObj__sendNextNodeIdx(
        self, node: Node, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
    ) -> None: ...
    def _SyncObj__setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None: ...
    def _SyncObj__setState(self, newState: int) -> None: ...
    def _SyncObj__tryLogCompaction(self) -> None: ...
