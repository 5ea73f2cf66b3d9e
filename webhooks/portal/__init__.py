"""The customers' portal: whoever receives webhooks sees, mends and understands them by himself.

One owner's data and nothing else, for a signed-in user or for the session of a portal link. Pages
are rendered here and work without JavaScript (docs/portal.md).
"""
