"""What counts as a secret: by the name of an option or of an environment variable, or by the form of an address."""

import re

_SECRETS = (
    r"\w*passw(or)?d|\w*passphrase|pass_phrase|secrets?|credentials?|auth|authorization|bearer|jwt|cookies?|headers?|dsn"
    r"|(access|account|api|app|application|auth|bearer|client|consumer|deploy|encryption|hf|license|master|private|secret"
    r"|service|signing|ssh|subscription)_?key"
    r"|(amqp|broker|connection|database|db|mongo(db)?|mysql|postgres(ql)?|redis|webhook)_(string|uri|url)"
    r"|token|(?<=_)pat|(?<=_)pwd"
)
_OPTION = re.compile(rf"(^|_)({_SECRETS})$")
_VARIABLE = re.compile(rf"(^|_)({_SECRETS}|key|session|proxy|pat|(?<=_)pass)(_|$)")

_VOCABULARY = re.compile(
    r"(^|_)(audio|begin|boi|bos|cls|end|eoi|eos|fake|first|forced_bos|image|last|mask|media|middle|new|next|pad"
    r"|placeholder|prefix|sep|special|start|stop|suffix|text|think|unk|video|vision)_token$"
)
"""Names of the tokens that a tokenizer has."""

_PUBLIC_HEADERS = {"accept", "accept_encoding", "accept_language", "content_type", "user_agent"}

# One slash is what `Path` leaves of two.
_ADDRESS = re.compile(r"(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{1,20}:/{1,2})([^\s/?#]*@)?([^\s'\"<>]*)", re.IGNORECASE)
_PARAMETER = re.compile(r"(?<=[?&;])([\w.-]+)=([^\s&;#]+)")

_NAME = re.compile(r"(?<![\w.-])([\w.-]+)(['\"]?\s*[:=]\s*|(?<=\w)\s+)")
_VALUE = re.compile(r"'[^']*'|\"[^\"]*\"|\{[^}]*\}?|\[[^\]]*\]?|((Bearer|Basic|Token)\s+)?[^\s,;)}\]]+", re.IGNORECASE)


def _snake_case(name: str) -> str:
    """`X-Api-Key`, `apiKey` and `API_KEY` alike, as words with `_` between."""
    return re.sub(r"\W", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)).lower()


def is_secret_variable(name: str) -> bool:
    """Whether an environment variable of this name holds a secret, such as `MYSQL_PWD` or `GITHUB_PAT`."""
    name = _snake_case(name)
    return _VARIABLE.search(name) is not None and not _VOCABULARY.search(name)


def is_secret_option(name: str) -> bool:
    """Whether an option of this name, such as `trainer.logger.init_args.api_key`, holds a secret.

    What stands below a secret is one, too: `headers.X-Own`; not so the headers that every request has.
    """
    parts = [_snake_case(part) for part in name.replace("[", ".").replace("]", "").split(".")]
    return parts[-1] not in _PUBLIC_HEADERS and any(
        _OPTION.search(part) and not _VOCABULARY.search(part) for part in parts
    )


def without_passwords(text: str) -> str:
    """The text with `***` for what the addresses in it hold of secrets: user and password, and keys of the query.

    A user alone is a secret in `https://token@host`, not in `ssh://git@host`. References, `${...}`, stay.
    """

    def parameter(found: re.Match[str]) -> str:
        is_secret = is_secret_option(found[1]) or found[1].lower() in ("key", "sig", "signature")
        return f"{found[1]}=***" if is_secret and "${" not in found[2] else found[0]

    def address(found: re.Match[str]) -> str:
        scheme, user, rest = found[1], found[2] or "", found[3]
        if "${" not in user and (":" in user or (user and scheme.lower().startswith("http"))):
            user = "***@"
        return f"{scheme}{user}{_PARAMETER.sub(parameter, rest)}"

    return _ADDRESS.sub(address, text)


def without_named_values(text: str) -> str:
    """The text with `***` for each value that follows a secret's name: `name: value`, `name=value`, `--name value`.

    References, `${...}`, stay.
    """
    parts, end = [], 0
    for name in _NAME.finditer(text):
        is_pair = name[2].strip() or name[1].startswith("--")
        if name.start() >= end and is_pair and is_secret_option(name[1]):
            value = _VALUE.match(text, name.end())
            if value and "${" not in value[0]:
                parts += [text[end : name.end()], "***"]
                end = value.end()
    return "".join(parts) + text[end:]
