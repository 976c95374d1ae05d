"""librdkafka's own mock of a cluster, for answers that no healthy Kafka gives: it is inside the client library's wheel."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

from tests.servers.redis_server import ServerUnavailableError

PRODUCER = 0
PRODUCE, OFFSET_COMMIT, OFFSET_FETCH, INIT_PRODUCER_ID = 0, 8, 9, 22  # kinds of requests


class MockKafka:
    """A cluster of one broker. ``push``: what it answers to the next requests of a kind."""

    def __init__(self) -> None:
        self._library = _library()
        text = ctypes.create_string_buffer(512)
        self._client = self._library.rd_kafka_new(PRODUCER, None, text, len(text))
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        self.bootstrap = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def topic(self, name: str, partitions: int = 1) -> None:
        """Make one."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        assert code == 0, code

    def push(self, kind: int, *codes: int) -> None:
        """Answer the next requests of this kind with these errors."""
        array = (ctypes.c_int * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, kind, len(codes), array)

    def clear(self, kind: int) -> None:
        """Answer as a healthy cluster does from now on."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, kind)

    def stop(self) -> None:
        """End it. May be called once."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)


def _library() -> ctypes.CDLL:
    package = Path(confluent_kafka.__file__).parent
    found = sorted((package.parent / "confluent_kafka.libs").glob("librdkafka*")) + sorted(
        package.glob(".dylibs/librdkafka*")
    )
    if not found:
        raise ServerUnavailableError("this build of confluent-kafka brings no librdkafka, and so no mock cluster")
    library = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, answer, arguments in (
        ("rd_kafka_new", pointer, [number, pointer, text, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, number]),
        ("rd_kafka_mock_cluster_destroy", None, [pointer]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_clear_request_errors", None, [pointer, ctypes.c_int16]),
        ("rd_kafka_mock_push_request_errors_array", None, [pointer, ctypes.c_int16, ctypes.c_size_t, pointer]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = answer, arguments
    return library
