"""HTTP to receivers over libcurl: the only package that opens sockets to them.

It speaks `requests`: a PreparedRequest goes in, a Response or a TransportError comes out.
`one.CurlAdapter` sends one request and waits; `many.MultiSender` keeps hundreds in flight for a
worker. Both configure libcurl alike (`exchange.Exchange`): only http and https, every address
checked when its socket opens, no redirects, no cookies, nothing from the environment, bounded time
and memory. The only proxy is that of WEBHOOKS_PROXY_URL: it gets host names and checks the addresses
in our place.
"""
