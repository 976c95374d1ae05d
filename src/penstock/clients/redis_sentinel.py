"""A primary that sentinels watch: who it is, is asked before each new connection.

Nothing is subscribed to and nothing remembered: a failover ends the connections to the old primary (or makes it refuse
writes, which counts as that), and whoever connects anew hears of the new one. Who answers is asked for its role too: a
sentinel that was cut off for a while may still name the old primary.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

from msgspec.structs import replace

from ..errors import AccessDenied, BrokerError, ConnectionFailed, InvalidURL
from .redis_address import EXPECTED, Host, RedisAddress
from .redis_py import CONNECT_TIMEOUT, TIMEOUT, Link, RedisPyClient

ASKING_TIMEOUT = 1.0  # seconds for one sentinel: there are others


class RedisSentinelClient(RedisPyClient):
    """A pool of connections to the primary of ``address.service``.

    Options ``sentinel_username`` and ``sentinel_password`` are for the sentinels, all others for the primary; TLS
    settings are for both.
    """

    def __init__(
        self, address: RedisAddress, *, timeout: float = TIMEOUT, connect_timeout: float = CONNECT_TIMEOUT
    ) -> None:
        ours, theirs = _split(address)
        super().__init__(ours, timeout=timeout, connect_timeout=connect_timeout)
        self.address = address
        self._sentinels = [
            RedisPyClient(theirs.at(*host), timeout=ASKING_TIMEOUT, connect_timeout=ASKING_TIMEOUT)
            for host in address.hosts
        ]

    async def where(self) -> Host:
        failures: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                found = await sentinel.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.address.service)
            except AccessDenied as denied:
                options = "sentinel_username and sentinel_password"
                raise AccessDenied(f"{denied}; sentinels have users of their own: set {options}") from denied
            except BrokerError as error:
                failures.append(str(error))
            else:
                if found:
                    return found[0].decode(), int(found[1])
                failures.append(f"{sentinel.url} watches no {self.address.service!r}")
            self._sentinels.remove(sentinel)  # the others first, next time
            self._sentinels.append(sentinel)
        raise ConnectionFailed(f"no sentinel of {self.url} names a primary: {'; '.join(failures)}")

    async def connect(self) -> Link:
        link = await super().connect()
        try:
            role = await self.exchange_on(link, ("ROLE",), 0)
        except AccessDenied:
            return link  # not allowed to ask
        except BaseException:
            link.drop()
            raise
        if role[0] != b"master":
            link.drop()
            raise ConnectionFailed(f"{self.url}: the server that the sentinels name is no primary (yet)")
        return link

    async def close(self) -> None:
        await super().close()
        for sentinel in self._sentinels:
            await sentinel.close()


def _split(address: RedisAddress) -> tuple[RedisAddress, RedisAddress]:
    """The address for the primary and the one for the sentinels."""
    options = address.options
    name, password = options.pop("sentinel_username", ""), options.pop("sentinel_password", "")
    if name and not password:
        raise InvalidURL(f"sentinel_username needs a sentinel_password; {EXPECTED}")
    primary = replace(address.at(*address.hosts[0]), query=urlencode(options), masked=address.masked)
    shared = {k: v for k, v in options.items() if k.startswith("ssl_")}
    userinfo = f"{quote(name, safe='')}:{quote(password, safe='')}" if password else ""
    return primary, replace(address, userinfo=userinfo, query=urlencode(shared), database=0)
