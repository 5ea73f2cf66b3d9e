"""URLs that lead to our own network, spelled in every way that fooled somebody's parser.

`PORT` stands for the port of a canary listening on 127.0.0.1 and ::1.
"""

V4_LOOPBACK = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7F000001", "0x7f.1",
    "0x7f.0.0.1", "0177.0.0.1", "0177.0.0.01", "017700000001", "127.0.0.01", "127.00.0.1", "0",
    "0.0.0.0", "0x0", "127.255.255.254", "127.0.0.1.", "127.1.", "2130706433.", "127.127.127.127",
]  # fmt: skip
V4_PRIVATE = [
    "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255",
    "169.254.1.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1",
    "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "10.1",
    "192.168.257", "0xc0a80001", "0xA.1", "012.0.0.1",
]  # fmt: skip
CLOUD = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192",
    "[fd00:ec2::254]", "[fd20:ce::254]", "0xa9fea9fe", "2852039166", "169.254.43518",
    "0251.0376.0251.0376", "metadata.google.internal", "instance-data.ec2.internal",
]  # fmt: skip
V6 = [
    "[::]", "[::1]", "[0:0:0:0:0:0:0:1]", "[0000::0001]", "[::0.0.0.1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::FFFF:7F00:1]", "[0:0:0:0:0:ffff:7f00:1]", "[::127.0.0.1]", "[::7f00:1]",
    "[::ffff:0:7f00:1]", "[::5efe:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]",
    "[2001:0:4136:e378:8000:63bf:3f57:fdf2]", "[fc00::1]", "[fd12::1]", "[fe80::1]",
    "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25lo]", "[::1%lo]", "[fec0::1]", "[ff02::1]",
    "[100::1]", "[2001:db8::1]", "[3fff::1]", "[5f00::1]", "[2001:20::1]", "[1::1]", "[4000::1]",
    "[::ffff:10.0.0.1]", "[::ffff:169.254.169.254]", "[2620:4f:8000::1]", "[127.0.0.1]", "[]",
    "[::1", "::1]", "[::1]]", "[v1.127.0.0.1]",
]  # fmt: skip
UNICODE = [
    "①②⑦.⓪.⓪.①", "127。0。0。1", "127．0．0．1", "127｡0｡0｡1", "１２７.0.0.1", "ⓛocalhost",
    "lo\u00adcalhost", "localhost\u200b", "loc\u2060alhost", "ﬁle.localhost", "𝟏𝟐𝟕.𝟎.𝟎.𝟏",
    "0x7f\u3002 1", "[::①]", "localhost\ufeff",
]  # fmt: skip
NAMES = [
    "localhost", "LOCALHOST.", "LocalHost", "x.localhost", "localhost.localdomain", "postgres",
    "valkey", "redis", "host.docker.internal", "kubernetes.default.svc", "db.internal",
    "printer.local", "router.lan", "kubernetes.default.svc.cluster.local", "nas.home.arpa",
    "intranet", "a..b", "-a.example", "a-.example", "x" * 64 + ".example", ".example.com",
    "*.example.com", "exa%6dple.com", "example.com%00", "example.com%2f", "xn--a.example",
]  # fmt: skip
RESOLVED = [
    "127.0.0.1.nip.io", "www.7f000001.nip.io", "rebind.example", "public.example", "ß.example",
    "еxample.com", "xn--zca.example", "spoofed.example.com.", "a" * 63 + ".example", "my_host.example",
]  # fmt: skip
"""Names that are fine to save; a hostile name server makes them loopback."""

PARSER = [
    "http://127.0.0.1:PORT\\@public.example/", "http://127.0.0.1\\.public.example/",
    "http://public.example\\@127.0.0.1:PORT/", "http://public.example@127.0.0.1:PORT/",
    "http://public.example:80@127.0.0.1:PORT/", "http://user:pw@127.0.0.1:PORT/",
    "http://@127.0.0.1:PORT/", "http://:@127.0.0.1:PORT/", "http://public.example#@127.0.0.1:PORT/",
    "http://public.example?@127.0.0.1:PORT/#", "http://public.example%2f@127.0.0.1:PORT/",
    "http://public.example%23@127.0.0.1:PORT/", "http://127.0.0.1%00.public.example:PORT/",
    "http://127.0.0.1%09:PORT/", "\thttp://127.0.0.1:PORT/", " http://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT/ ", "http://12\t7.0.0.1:PORT/", "ht\ntp://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\r\nX-Injected:1/", "http://127.0.0.1:PORT/\r\nHost: x",
    "http://127.0.0.1:PORT/\x00", "http://127.0.0.1\x00.public.example:PORT/", "http:///127.0.0.1:PORT/",
    "http:////127.0.0.1:PORT/", "http:127.0.0.1:PORT/", "http:/127.0.0.1:PORT/", "//127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT/", "http:/\\127.0.0.1:PORT/", "/\\127.0.0.1:PORT/", "127.0.0.1:PORT/",
    "http://[::1]:PORT@public.example/", "http://[::1]PORT/", "http://[::1].public.example:PORT/",
    "http://public.example:PORT:PORT/", "http://127.0.0.1:+PORT/", "http://127.0.0.1:PORT.0/",
    "http://127.0.0.1: PORT/", "http://127.0.0.1:-PORT/", "http://127.0.0.1:0xPORT/",
    "http://127.0.0.1:٣PORT/", "http://127.0.0.1:\uff10PORT/", "http://127.0.0.1:65536/",
    "http://127.0.0.1:0/", "http://127.0.0.1:/", "http://127.0.0.1:000000PORT/", "http://:PORT/", "http://",
    "http://#127.0.0.1:PORT/", "http://?127.0.0.1:PORT/", "http://127.0.0.1;public.example:PORT/",
    "http://127.0.0.1,public.example:PORT/", "http://public.example,127.0.0.1:PORT/",
    "http://127.0.0.1&public.example:PORT/", "http://127.0.0.1+public.example:PORT/",
    "http://{127.0.0.1}:PORT/", "http://127.0.0.{1,2}:PORT/", "http://127.0.0.[1-2]:PORT/",
    "http://<127.0.0.1>:PORT/", "http://\"127.0.0.1\":PORT/", "http://127.0.0.1`:PORT/", "", " ",
]  # fmt: skip
SCHEMES = [
    "file:///etc/passwd", "file://127.0.0.1:PORT/", "gopher://127.0.0.1:PORT/_x",
    "ftp://127.0.0.1:PORT/", "ftps://127.0.0.1:PORT/", "sftp://127.0.0.1:PORT/",
    "scp://127.0.0.1:PORT/x", "dict://127.0.0.1:PORT/info", "ldap://127.0.0.1:PORT/",
    "smb://127.0.0.1:PORT/", "tftp://127.0.0.1:PORT/", "telnet://127.0.0.1:PORT/",
    "imap://127.0.0.1:PORT/", "smtp://127.0.0.1:PORT/", "mqtt://127.0.0.1:PORT/",
    "rtsp://127.0.0.1:PORT/", "ws://127.0.0.1:PORT/", "wss://127.0.0.1:PORT/",
    "unix:///var/run/docker.sock", "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "data:text/plain,x",
    "javascript:alert(1)", "jar:http://127.0.0.1:PORT/!/", "about:blank", "view-source:http://127.0.0.1:PORT/",
    "HTTP//127.0.0.1:PORT/", "hTtPs;//127.0.0.1:PORT/", "h\u0442tp://127.0.0.1:PORT/",
    "http\uff1a//127.0.0.1:PORT/",
]  # fmt: skip


def corpus(port: int) -> dict[str, bool]:
    """All URLs with the canary's port, and whether each may be saved."""
    refused = [
        f"{scheme}://{host}:{port}/"
        for host in V4_LOOPBACK + V4_PRIVATE + CLOUD + V6 + UNICODE + NAMES
        for scheme in ("http", "https")
    ]
    refused += [f"HTTP://{host}/hook?x=1" for host in V4_LOOPBACK + V6]
    refused += [url.replace("PORT", str(port)) for url in PARSER + SCHEMES]
    saved = [f"{scheme}://{host}:{port}/" for host in RESOLVED for scheme in ("http", "https")]
    return dict.fromkeys(refused, False) | dict.fromkeys(saved, True)
