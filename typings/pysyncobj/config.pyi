from collections.abc import Callable
from typing import Any

class FAIL_REASON:
    SUCCESS: int
    QUEUE_FULL: int
    MISSING_LEADER: int
    DISCARDED: int
    NOT_LEADER: int
    LEADER_CHANGED: int
    REQUEST_DENIED: int
    UNKNOWN_OUTCOME: int

class SERIALIZER_STATE:
    NOT_SERIALIZING: int
    SERIALIZING: int
    SUCCESS: int
    FAILED: int

class SyncObjConf:
    # Every option is optional here because the library takes **kwargs and ignores a misspelt name without a word;
    # spelling them out turns such a mistake into a type error.
    def __init__(
        self,
        *,
        password: bytes | None = ...,
        autoTick: bool = ...,
        autoTickPeriod: float = ...,
        commandsQueueSize: int = ...,
        raftMinTimeout: float = ...,
        raftMaxTimeout: float = ...,
        appendEntriesPeriod: float = ...,
        connectionTimeout: float = ...,
        connectionRetryTime: float = ...,
        leaderFallbackTimeout: float = ...,
        appendEntriesUseBatch: bool = ...,
        appendEntriesBatchSizeBytes: int = ...,
        bindAddress: str | None = ...,
        preferredAddrType: str | None = ...,
        sendBufferSize: int = ...,
        recvBufferSize: int = ...,
        dnsCacheTime: float = ...,
        dnsFailCacheTime: float = ...,
        logCompactionMinEntries: int = ...,
        logCompactionMinTime: float = ...,
        logCompactionSplit: bool = ...,
        logCompactionBatchSize: int = ...,
        commandsWaitLeader: bool = ...,
        fullDumpFile: str | None = ...,
        journalFile: str | None = ...,
        bindRetryTime: float = ...,
        maxBindRetries: int = ...,
        onReady: Callable[[], object] | None = ...,
        onStateChanged: Callable[[int, int], object] | None = ...,
        dynamicMembershipChange: bool = ...,
        pollerType: str = ...,
        useFork: bool = ...,
        serializer: Callable[[str, Any], object] | None = ...,
        serializeChecker: Callable[[], int] | None = ...,
        deserializer: Callable[[str], Any] | None = ...,
        onCodeVersionChanged: Callable[[int, int], object] | None = ...,
        tcp_keepalive: tuple[int, int, int] | None = ...,
    ) -> None: ...
    def validate(self) -> None: ...
    appendEntriesPeriod: float
    appendEntriesBatchSizeBytes: int
    leaderFallbackTimeout: float
    raftMinTimeout: float
    raftMaxTimeout: float
