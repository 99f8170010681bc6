"""Requests that aiokafka does not have, in its own way to write them: metadata with topic ids, and where a leader epoch ends."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import Array, Boolean, CompactArray, CompactString, Int16, Int32, Int64, Schema, String, TaggedFields

from eslab.sources import TopicPartition

__all__ = ["EpochEndRequest", "MetadataRequest"]


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka is untyped here
    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return value

    @classmethod
    def decode(cls, data: BytesIO) -> bytes:
        return data.read(16)


class _MetadataResponse_v12(Response):  # type: ignore[misc]  # noqa: N801 - aiokafka's way to write versions
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", CompactArray(("node_id", Int32), ("host", CompactString()), ("port", Int32), ("rack", CompactString()), ("tags", TaggedFields))),
        ("cluster_id", CompactString()),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("topic", CompactString()),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("isr", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )  # fmt: skip


class _MetadataRequest_v12(RequestStruct):  # type: ignore[misc]  # noqa: N801
    API_KEY = 3
    API_VERSION = 12
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _MetadataResponse_v12
    SCHEMA = Schema(
        ("topics", CompactArray(("topic_id", _Uuid), ("topic", CompactString()), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class MetadataRequest(Request[MetadataRequest_v5 | _MetadataRequest_v12]):  # type: ignore[misc]
    """Brokers and topics (None: all). v12 brings topic ids (Kafka 2.8); v5 is the form that older brokers take."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str] | None) -> None:
        self._topics = None if topics is None else list(topics)

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)
        topics: Any = None if self._topics is None else [(bytes(16), topic, {}) for topic in self._topics]
        return _MetadataRequest_v12(topics, False, False, {})


class _EpochEndResponse_v2(Response):  # type: ignore[misc]  # noqa: N801
    API_KEY = 23
    API_VERSION = 2
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                ("partitions", Array(("error_code", Int16), ("partition", Int32), ("leader_epoch", Int32), ("end_offset", Int64))),
            ),
        ),
    )


class _EpochEndRequest_v2(RequestStruct):  # type: ignore[misc]  # noqa: N801
    API_KEY = 23
    API_VERSION = 2
    RESPONSE_TYPE = _EpochEndResponse_v2
    SCHEMA = Schema(
        (
            "topics",
            Array(("topic", String("utf-8")), ("partitions", Array(("partition", Int32), ("current_epoch", Int32), ("epoch", Int32)))),
        )
    )


class EpochEndRequest(Request[_EpochEndRequest_v2]):  # type: ignore[misc]
    """OffsetForLeaderEpoch of one partition; v2 is understood from Kafka 2.1 to 4."""

    API_KEY = 23

    def __init__(self, at: TopicPartition, leader_epoch: int) -> None:
        self._at, self._leader_epoch = at, leader_epoch

    def build(self, request_struct_class: Any) -> Any:
        topic, partition = self._at
        return request_struct_class([(topic, [(partition, -1, self._leader_epoch)])])
