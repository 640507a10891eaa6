"""What may go wrong with an endpoint."""


class EndpointError(RuntimeError):
    """The endpoint cannot be used like this; further requests would fail, too."""


class RequestFailed(EndpointError):
    """One request has no reply, after all attempts or because the endpoint refuses its text."""
