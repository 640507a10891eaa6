"""What may go wrong with an endpoint."""


class EndpointError(RuntimeError):
    """The endpoint cannot be used like this: asking for more would be in vain."""


class RequestFailed(EndpointError):
    """One request has no reply, after all attempts or because the endpoint refuses its text."""
